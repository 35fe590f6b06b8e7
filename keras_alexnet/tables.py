"""Tables as text: what commands print and reports hold."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the terminal or of a report.

    Attributes:
        title: str, "" for none.
        columns: sequence of str, the headings.
        rows: sequence of sequence of str, each as long as the columns.
        note: str, printed below it in parentheses, "" for none.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_text(self):
        """The table for a terminal, str; columns of numbers are right-aligned."""
        rows = zip(*map(_aligned, zip(self.columns, *self.rows, strict=True)), strict=True)
        lines = ["  ".join(row).rstrip() for row in rows]
        return "\n".join(
            [*([self.title, ""] if self.title else []), *lines, *([f"({self.note})"] if self.note else [])]
        )


def _aligned(column):
    """The cells of a column, its heading first, at the same width."""
    width = max(map(len, column))
    is_numeric = all(cell[:1] in "+-0123456789" for cell in column[1:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]
