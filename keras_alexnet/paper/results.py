"""What the commands of this folder leave behind: one JSON file each, with its pictures beside it.

- RESULTS/NAME.json: protocol, command, commit, date, device, and the figures.
- RESULTS/NAME*.svg and .png: pictures, named in the JSON.

Every command is a module with `main(argv)` and what the report asks it for: TITLE, CLAIM (what the paper says, and
where), COMMAND (as a user would give it), COST (how long it takes, measured or estimated, and on what), and the
functions `tables(values)` -> list of Table and `verdict(values)` -> str, of the figures in its JSON or of None, where
it was not run.
"""

import dataclasses
import datetime
import json
import os
import shlex

from keras_alexnet import __version__, provenance
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write

NOT_RUN = "not run"


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        title: str.
        columns: tuple of str; the first is of the rows' names.
        rows: tuple of tuple of str, as long as the columns.
        note: str, what is to be said below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def as_text(self):
        """The table for a terminal, str."""
        rows = [self.columns, *self.rows]
        widths = [max(len(row[place]) for row in rows) for place in range(len(self.columns))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join([self.title, "", *lines, *([f"({self.note})"] if self.note else [])])


def write(folder, name, values, *, protocol, argv, pictures=(), quick=False):
    """Writes the figures of a command.

    Args:
        folder: str, `--results_dir`.
        name: str, of the command.
        values: dict of what was found; can be written as JSON.
        protocol: str, how: set, images, views, models, what was cut.
        argv: list of str, the command's arguments.
        pictures: sequence of (file name below folder, what it shows), written already.
        quick: bool, whether this was a trial of the command and not of the paper's claim.

    Returns:
        str, the path of the JSON.
    """
    path = os.path.join(folder, f"{name}.json")
    about = {
        "name": name,
        "protocol": protocol,
        "command": shlex.join(["python", "-m", f"keras_alexnet.paper.{name}", *argv]),
        "quick": quick,
        "keras_alexnet": __version__,
        "commit": provenance.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": provenance.device(),
        "pictures": [{"file": file, "shows": shows} for file, shows in pictures],
        "values": values,
    }
    with atomic_write(path) as file:
        json.dump(about, file, indent=1, ensure_ascii=False)
    return path


def read(folder, name):
    """What `write` wrote: dict, or None where the command was not run.

    Raises:
        RunError: the file is no such thing.
    """
    path = os.path.join(folder, f"{name}.json")
    if not os.path.isfile(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except ValueError as error:
        raise RunError(f"{path}: is no result ({error}); run the command again") from None
    wanted = ("protocol", "command", "commit", "date", "device", "pictures", "values")
    missing = [key for key in wanted if not isinstance(found, dict) or key not in found]
    if missing:
        raise RunError(f"{path}: lacks {', '.join(missing)}; run the command again")
    return found


def say(module, values, path):
    """Prints what a command has found, as the report will have it.

    Args:
        module: the command's, see the head of this file.
        values: dict.
        path: str, the JSON.
    """
    for table in module.tables(values):
        print(f"{table.as_text()}\n")
    print(f"{module.verdict(values)}\nall figures: {path}")


def folder_for(path):
    """Makes a folder to write into. Raises UsageError when that fails."""
    provenance.commit()  # what runs now, whatever the checkout is when the command ends
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--results_dir={path}: cannot be made ({error.strerror}); name another folder") from None
    if not os.access(path, os.W_OK):
        raise UsageError(f"--results_dir={path}: cannot be written to; name another folder")
    return path
