"""What the report says of each command: its module's words and the figures and pictures that it left."""

import dataclasses
import importlib
import os
import re
import struct
import unicodedata
import xml.etree.ElementTree

from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.paper import results

RUN, TRIAL, NOT_RUN, UNREADABLE = "run", "quick trial", results.NOT_RUN, "cannot be read"
LARGEST_PICTURE = 5_000_000  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"
_POINTS = {"pt": 4 / 3, "px": 1.0, "": 1.0}  # CSS pixels of a unit of SVG's


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a command.

    Attributes:
        file: str, its path below the results' folder, with /.
        shows: str, its caption.
        media: str, "image/png" or "image/svg+xml"; empty where there is a problem.
        data: bytes of the file.
        size: (width, height) in CSS pixels, int, or None where the file does not say.
        problem: str, why it cannot be shown, or empty.
    """

    file: str
    shows: str
    media: str = ""
    data: bytes = b""
    size: tuple[int, int] | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """What the report says of a command; every text is one line.

    Attributes:
        name: str, the command's.
        title, claim, cost: str, the module's.
        state: RUN, TRIAL, NOT_RUN or UNREADABLE.
        command: str, the one that was run, or the one to run.
        verdict: str.
        tables: tuple of results.Table.
        pictures: tuple of Picture.
        facts: tuple of (what, str): protocol, commit, date, device and version of what was run.
        problem: str, why the results cannot be read, or empty.
    """

    name: str
    title: str
    claim: str
    cost: str
    state: str
    command: str
    verdict: str
    tables: tuple[results.Table, ...]
    pictures: tuple[Picture, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    @property
    def short_claim(self):
        """The claim up to its first pause, for a summary."""
        return re.split(r"; |\. | \(sections? ", self.claim)[0].rstrip(".")

    @property
    def problems(self):
        """What could not be read, list of str."""
        pictures = [f"{each.file}: {each.problem}" for each in self.pictures if each.problem]
        return [self.problem] * bool(self.problem) + pictures


def collect(folder, names):
    """Reads the results of every command.

    Args:
        folder: str, `--results_dir`.
        names: tuple of str, modules of this folder.

    Returns:
        list of Section, one a name; what cannot be read is said in its section.
    """
    return [_section(name, folder) for name in names]


def one_line(text):
    """A text of somewhere else in one line; what could steer a terminal or turn a line around is escaped."""
    if not isinstance(text, str):
        raise ValueError(f"is to be a text: {text!r}")
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) in ("Cc", "Cf", "Cs") else each
        for each in " ".join(text.split())
    )


def _section(name, folder):
    module = importlib.import_module(f"keras_alexnet.paper.{name}")
    problem, read = "", {"state": NOT_RUN}
    path = os.path.join(folder, f"{name}.json")
    try:
        # A file of another version has other figures: what the module then makes of them may be an error of any kind.
        with reading(path):
            about = results.read(folder, name)
            if about is not None:
                read = _read(module, about, folder)
    except (RunError, UsageError) as error:
        problem, read = one_line(str(error)), {"state": UNREADABLE}
    return Section(
        **{
            "name": name,
            "title": one_line(module.TITLE),
            "claim": one_line(module.CLAIM),
            "cost": one_line(module.COST),
            "command": one_line(module.COMMAND),
            "verdict": UNREADABLE if problem else NOT_RUN,
            "problem": problem,
        }
        | (read if "tables" in read else read | {"tables": _tables(module, None)})
    )


def _read(module, about, folder):
    """The fields of a Section that come of its JSON."""
    if not isinstance(about["values"], dict):
        raise ValueError("its values are none")
    facts = ("protocol", "commit", "date", "device")
    return {
        "state": TRIAL if about.get("quick") else RUN,
        "command": one_line(about["command"]),
        "verdict": one_line(module.verdict(about["values"])),
        "tables": _tables(module, about["values"]),
        "pictures": tuple(_picture(folder, each["file"], one_line(each["shows"])) for each in about["pictures"]),
        "facts": tuple((name, one_line(about[name])) for name in facts)
        + (("version", f"keras_alexnet {one_line(about.get('keras_alexnet', 'unknown'))}"),),
    }


def _tables(module, values):
    tables = []
    for table in module.tables(values):
        if any(len(row) != len(table.columns) for row in table.rows):
            raise ValueError(f"a row of {table.title!r} has not one cell a column")
        tables.append(
            results.Table(
                one_line(table.title),
                tuple(map(one_line, table.columns)),
                tuple(tuple(map(one_line, row)) for row in table.rows),
                one_line(table.note),
            )
        )
    return tuple(tables)


def _picture(folder, file, shows):
    """Reads a picture of the results' folder -> Picture; what it is, its bytes say."""
    path = os.path.join(folder, file)
    name = one_line(file.replace(os.sep, "/"))
    inside = os.path.realpath(folder)
    if os.path.commonpath([inside, os.path.realpath(path)]) != inside:
        return Picture(name, shows, problem="lies outside the results' folder")
    try:
        if os.path.getsize(path) > LARGEST_PICTURE:
            return Picture(name, shows, problem=f"is larger than {LARGEST_PICTURE / 1e6:g} MB")
        with open(path, "rb") as opened:
            data = opened.read()
    except OSError as error:
        return Picture(name, shows, problem=f"cannot be read ({error.strerror}); run the command again")
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and data[-8:-4] == b"IEND":
        return Picture(name, shows, "image/png", data, struct.unpack(">II", data[16:24]))
    try:
        root = xml.etree.ElementTree.fromstring(data)
    except xml.etree.ElementTree.ParseError:
        root = None
    # Without its namespace no browser shows it.
    if root is None or root.tag != "{http://www.w3.org/2000/svg}svg":
        return Picture(name, shows, problem="is neither a whole PNG nor a whole SVG; run the command again")
    return Picture(name, shows, "image/svg+xml", data, _svg_size(root))


def _svg_size(root):
    found = [re.fullmatch(r"([\d.]+)(pt|px|)", root.get(name, "")) for name in ("width", "height")]
    if not all(found):
        return None
    width, height = (round(float(each[1]) * _POINTS[each[2]]) for each in found)
    return width, height
