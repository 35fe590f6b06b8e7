"""The two panels of Figure 4 as small PNG files: photographs, and what a network says of them.

They are drawn in pixels, as wide as a column of text, and with large letters: a phone shows them at half the size.
"""

import io

import numpy as np

from keras_alexnet.paper import pictures

THUMBNAIL = 200  # rows and columns of a picture of the left panel
SMALL = 100  # of the right one
COLORS = 256  # of the palette: photographs as PNG are three times as large without one
TRUE, OTHER = "#f0a07a", "#bdd3e8"  # bars
WRONG = "#b3261e"
SMALLEST = 0.8  # of its size, a text that is too long
_FLAT = ("#ffffff", "#000000", TRUE, OTHER, WRONG)
_GAP = 10


def predictions(rows, thumbnails):
    """The left panel: pictures with their best classes as bars, in two columns.

    The true class is under its picture, in bold. Its bar, if it is among the best, is of another color, and its label
    bold with a check mark.

    Args:
        rows: list of dict, one a picture: class_name, true_probability, and best, a list of dict of class_name and
            probability, the most probable first.
        thumbnails: uint8 (N, THUMBNAIL, THUMBNAIL, 3), RGB.

    Returns:
        bytes, PNG.
    """
    cell, bar, head, number = 312, 25, 32, 80
    bars = max(len(row["best"]) for row in rows)
    tall = THUMBNAIL + head + bars * bar + 26
    columns = min(2, len(rows))
    width = columns * cell + (columns + 1) * _GAP
    figure, axes = _canvas(width, -(-len(rows) // columns) * tall + _GAP)
    for place, (row, thumbnail) in enumerate(zip(rows, thumbnails, strict=True)):
        left, top = _GAP + place % columns * (cell + _GAP), _GAP + place // columns * tall
        _put(figure, thumbnail, left + (cell - THUMBNAIL) // 2, top)
        top += THUMBNAIL
        names = [each["class_name"] for each in row["best"]]
        absent = "" if row["class_name"] in names else f" ({_percent(row['true_probability'])})"
        middle = left + cell / 2
        # The probability of a true class that has no bar is not to be cut away.
        _text(axes, middle, top + head / 2, row["class_name"], 19, cell, ending=absent, ha="center", weight="bold")
        top += head
        for each in row["best"]:
            true = each["class_name"] == row["class_name"]
            axes.add_patch(
                pictures.pyplot().Rectangle(
                    (left, top + 1),
                    max(each["probability"] * (cell - number), 2),
                    bar - 3,
                    facecolor=TRUE if true else OTHER,
                )
            )
            weight = "bold" if true else "normal"
            name = f"✓ {each['class_name']}" if true else each["class_name"]
            _text(axes, left + 6, top + bar / 2, name, 17, cell - number - 6, weight=weight)
            _text(
                axes, left + cell, top + bar / 2, _percent(each["probability"]), 17, number, ha="right", weight=weight
            )
            top += bar
    return _png(figure)


def neighbors(rows, thumbnails):
    """The right panel: in each row a test picture, and after a line the training pictures nearest to it.

    Under the first is its class; under a neighbor of the same class a check mark, and under another one a cross and its
    class, and the picture is framed.

    Args:
        rows: list of dict: class_name, and neighbors, a list of dict of class_name, the nearest first; equally many.
        thumbnails: uint8 (N * (1 + neighbors), SMALL, SMALL, 3), row by row.

    Returns:
        bytes, PNG.
    """
    gap, label = 8, 32
    columns = 1 + len(rows[0]["neighbors"])
    apart = 2 * gap  # between the first column and the others
    figure, axes = _canvas(columns * (SMALL + gap) + apart + gap, len(rows) * (SMALL + label) + gap)
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, columns)
        left, top = gap + column * (SMALL + gap) + apart * (column > 0), gap + row * (SMALL + label)
        _put(figure, thumbnail, left, top)
        middle, below = left + SMALL / 2, top + SMALL + label / 2 - 1
        own = rows[row]["class_name"]
        if column == 0:
            _text(axes, middle, below, own, 17, SMALL + gap, ha="center", weight="bold")
            continue
        name = rows[row]["neighbors"][column - 1]["class_name"]
        if name == own:
            _text(axes, middle, below, "✓", 17, SMALL, ha="center")
            continue
        axes.add_patch(
            pictures.pyplot().Rectangle(
                (left - 1, top - 1), SMALL + 2, SMALL + 2, fill=False, edgecolor=WRONG, linewidth=2.5
            )
        )
        _text(axes, middle, below, f"✗ {name}", 17, SMALL + gap, ha="center", color=WRONG)
    line = gap + SMALL + apart / 2 + gap / 2
    axes.plot([line, line], [gap, len(rows) * (SMALL + label) - gap], color="0.6", linewidth=1)
    return _png(figure)


def _canvas(width, height):
    """A figure of so many pixels, with axes that count them from its upper left corner."""
    figure = pictures.pyplot().figure(figsize=(width / pictures.DPI, height / pictures.DPI), dpi=pictures.DPI)
    axes = figure.add_axes([0, 0, 1, 1])
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def _put(figure, image, left, top):
    """A picture, pixel for pixel."""
    height = round(figure.get_figheight() * pictures.DPI)
    figure.figimage(image, left, height - top - len(image), origin="upper")


def _text(axes, x, y, text, pixels, room, ending="", **settings):
    """A line of text, made a little smaller and then cut where there is no room for it and for what it ends with."""
    drawn = axes.text(
        x, y, text + ending, fontsize=72 * pixels / pictures.DPI, va="center_baseline", parse_math=False, **settings
    )
    renderer = axes.figure.canvas.get_renderer()
    least = SMALLEST * drawn.get_fontsize()
    while len(text) > 1 and drawn.get_window_extent(renderer).width > room:
        if drawn.get_fontsize() > least:
            drawn.set_fontsize(drawn.get_fontsize() - 0.5)
            continue
        text = text[:-1]
        drawn.set_text(f"{text.rstrip()}…{ending}")


def _percent(probability):
    return f"{100 * probability:.1f} %"


def _png(figure):
    """The figure as a PNG with a palette, bytes."""
    from PIL import Image

    small = io.BytesIO()
    pixels = pictures.pixels_of(figure)
    image = Image.fromarray(pixels)
    # Pillow only dithers to a palette that it is given, and looks colors up in it roughly: what is no photograph is put
    # right afterwards.
    own = np.array([[int(color[place : place + 2], 16) for place in (1, 3, 5)] for color in _FLAT], np.uint8)
    palette = Image.new("P", (1, 1))
    found = image.quantize(COLORS - len(own)).getpalette()[: 3 * (COLORS - len(own))]
    palette.putpalette([*own.ravel().tolist(), *found])
    places = np.array(image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG))
    for place, color in enumerate(own):
        places[(pixels == color).all(axis=2)] = place
    reduced = Image.frombytes("P", image.size, places.tobytes())
    reduced.putpalette(palette.getpalette())
    reduced.save(small, "png", optimize=True)
    return small.getvalue()
