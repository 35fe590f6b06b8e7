"""A bar on the screen for what takes a while."""


def bar(label, unit="images"):
    """A function of (done, total) that draws a bar with the speed and the time left, on a screen only.

    Args:
        label: str, what is going on.
        unit: str, what is counted; "bytes" are shown in thousands and millions of them.
    """
    from tqdm import tqdm

    shown = tqdm(desc=label, unit=f" {unit}", unit_scale=unit == "bytes", disable=None, leave=False)

    def show(done, total):
        shown.total = total
        shown.update(done - shown.n)
        if done >= total:
            shown.close()

    return show
