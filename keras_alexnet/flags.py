"""Dataclasses as settings, each field a command-line flag. No other module uses absl.

    @dataclasses.dataclass(frozen=True)
    class TrainingConfig:
        learning_rate: float = flag(0.01, "Learning rate at the start.", low=0)

    config = flags.parse(TrainingConfig, ["--learning_rate=0.02"], usage)

A field whose type is a dataclass is a group of flags. A flagfile has one flag per line; # starts a comment line. Of two
values of a flag, the later one counts.
"""

import contextlib
import dataclasses
import inspect
import math
import os
import re
import textwrap
import typing

from absl import flags as absl_flags

from keras_alexnet.errors import ArgumentError, UsageError, is_utf8, printable

LARGEST = 2**31 - 1  # largest integer, that of TensorFlow's int32
HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")
_NESTING = 10  # levels of flagfiles within flagfiles


def flag(
    default,
    help,
    *,
    low=None,
    high=None,
    above=None,
    below=None,
    choices=None,
    many=False,
    path=False,
    different=False,
    first=False,
    free=False,
    saved=True,
):
    """A dataclass field that is a flag of the same name.

    Args:
        default: value of the field without the flag; None only if the type allows it.
        help: str, printed by `--help`.
        low, high: inclusive bounds.
        above, below: exclusive bounds.
        choices: sequence of allowed values.
        many: bool, the flag may be repeated; the field is a tuple.
        path: bool, a leading ~ is the home folder.
        different: bool, a tuple must have a value, and none twice.
        first: bool, `--help` lists the flag under "Most used".
        free: bool, the flag may change when a run resumes.
        saved: bool, the flag is written to a run's flags.cfg.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    return dataclasses.field(default=default, metadata=metadata)


def parse(kind, argv, usage, positional=None):
    """Parses flags into an instance of the dataclass `kind`.

    `argv` is a list of str without the program's name; `usage` a text that `--help` prints above the flags before it
    raises SystemExit with code 0; `positional` the field for arguments that are not flags, or None. Raises UsageError,
    whose message names the flag and, for a flagfile, the line.
    """
    if any(argument in HELP for argument in argv):
        print(_help(kind, usage, positional))
        raise SystemExit(0)
    flags, rest, places = _defined(kind, positional), [], {}
    for arguments, place in _expanded(argv):
        places |= {argument.lstrip("-").partition("=")[0]: place for argument in arguments}
        try:
            rest += flags(["keras_alexnet", *arguments])[1:]
        except (absl_flags.Error, ValueError) as error:
            # absl's message names the flag and the value.
            message = printable(str(error).removeprefix("ERROR:: ").removeprefix("flag "))
            raise UsageError(message + place) from None
    if rest and not positional:
        raise UsageError(f"unexpected argument {rest[0]!r}; every setting is a flag, --NAME=VALUE")
    try:
        return _built(kind, {**flags.flag_values_dict(), positional: tuple(rest)})
    except ArgumentError as error:
        raise ArgumentError(error.name, error.value, error.problem + places.get(error.name, "")) from None


def read(kind, texts):
    """Settings from texts of flags as `as_text` returns them; missing flags have defaults. Raises UsageError."""
    flags, fields = _defined(kind), _fields(kind)
    for name, text in texts.items():
        if name not in fields or not isinstance(text, str):
            raise UsageError(f"{name!r} is not a flag of a run")
    try:
        # A flag that may be repeated has an empty text if it has no value.
        flags(["keras_alexnet", *(f"--{name}={text}" for name, text in texts.items() if text or not fields[name].many)])
        return _built(kind, flags.flag_values_dict())
    except (absl_flags.Error, ArgumentError) as error:
        raise UsageError(printable(str(error))) from None


def as_text(config):
    """The saved flags of settings, as in a flagfile: dict of str -> str, sorted by name."""
    fields, values = _fields(type(config)), _values(config)
    return {name: _text(values[name]) for name in sorted(fields) if fields[name].saved}


def changes(before, now):
    """The flags that are not free and differ between two settings: list such as "--batch_size=64 (the run has 128)"."""
    fields, old = _fields(type(now)), as_text(before)
    return [
        f"--{name}={text} (the run has {old[name] or 'none'})"
        for name, text in as_text(now).items()
        if text != old[name] and not fields[name].free
    ]


def flagfile_name(argv):
    """The name of the first flagfile in `argv`, without folder and suffix, str; None without a flagfile."""
    named = re.search(r"^--?flagfile[=\n](.*)$", "\n".join(argv), re.MULTILINE)
    return os.path.splitext(os.path.basename(named[1]))[0] or None if named else None


def required(config, name):
    """The value of a flag without default. Raises UsageError where the flag is missing."""
    value = _values(config)[name]
    if not value:
        text = _fields(type(config))[name].help
        raise UsageError(f"--{name} is missing: give {text[0].lower()}{text[1:]}")
    return value


def _help(kind, usage, positional):
    groups = {"Most used": []}
    for name, field in _fields(kind).items():
        if name != positional:
            groups.setdefault("Most used" if field.first else field.group, []).append(field)
    lines = [(usage or "").strip()]
    for title, fields in groups.items():
        lines += ["", f"{title}:"] if fields else []
        for field in fields:
            default = _text(field.default)
            shown = f"{'|'.join(map(str, field.choices))} (default: {default})" if field.choices else default
            lines.append(f"  --{field.name}={shown}")
            lines += textwrap.wrap(field.help, 110, initial_indent="      ", subsequent_indent="      ")
    lines += ["", "  --flagfile=FILE", "      Flags from a file, one per line; later flags override them."]
    return "\n".join(lines)


class _Flag(absl_flags.ArgumentParser):
    """A flag with the arguments of `flag` as attributes; `type` is X for a field of type tuple[X, ...] or X | None."""

    def __init__(self, field, hint, group):
        vars(self).update(field.metadata)
        self.name, self.default, self.group = field.name, field.default, group
        self.is_tuple = typing.get_origin(hint) is tuple
        self.type = next((each for each in typing.get_args(hint) if each is not type(None)), hint)

    def parse(self, argument):
        """The value of the flag's text, as absl asks for it. Raises ValueError where it is invalid."""
        if not isinstance(argument, str):
            return argument  # the default
        if len(argument.splitlines()) > 1 or "\0" in argument:
            raise ValueError("must not contain line breaks or null characters")
        if not is_utf8(argument):
            raise ValueError("is not UTF-8; rename it")
        if self.choices and not self.is_tuple:
            absl_flags.EnumParser([str(choice) for choice in self.choices]).parse(argument)
            return next(choice for choice in self.choices if str(choice) == argument)
        if self.is_tuple and not self.many:
            return self._items(part.strip() for part in argument.split(",") if part.strip())
        if argument == "" and self.default is None:
            return None
        if self.type is int:
            return absl_flags.IntegerParser(self.low, LARGEST if self.high is None else self.high).parse(argument)
        if self.type is float:
            return self._number(argument)
        return os.path.expanduser(argument) if self.path else argument

    def _number(self, text):
        value = absl_flags.FloatParser(self.low, self.high).parse(text)
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        if self.above is not None and value <= self.above:
            raise ValueError(f"must be above {self.above}")
        if self.below is not None and value >= self.below:
            raise ValueError(f"must be below {self.below}")
        return value

    def _items(self, parts):
        low, above = self.low or 0, -math.inf if self.above is None else self.above
        with contextlib.suppress(ValueError):
            items = tuple(map(self.type, parts))
            allowed = items if self.type is str else [each for each in items if above < each and low <= each <= LARGEST]
            differ = not self.different or len(set(items)) == len(items) > 0
            if differ and set(items) <= set(self.choices or allowed):
                return items
        least = f"from {low} to" if self.above is None else f"above {self.above}, at most"
        numbers = f"{'whole ' * (self.type is int)}numbers {least} {LARGEST}"
        named = f"{'ones' if self.different else 'some'} of {', '.join(self.choices)}" if self.choices else numbers
        values = "different " * self.different + named
        raise ValueError(f"must be {values}, separated by commas")


def _fields(kind):
    """The flags of a dataclass and of the dataclasses in it: dict of name -> _Flag."""
    fields, hints = {}, typing.get_type_hints(kind)
    # The first line of the docstring; the name where python -OO has removed it.
    group = (inspect.getdoc(kind) or kind.__name__).partition("\n")[0].rstrip(".")
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            fields |= _fields(hints[field.name])
        elif "help" in field.metadata:
            fields[field.name] = _Flag(field, hints[field.name], group)
    return fields


def _defined(kind, positional=None):
    flags = absl_flags.FlagValues()
    for name, field in _fields(kind).items():
        shared = {"name": name, "default": field.default, "help": field.help, "flag_values": flags}
        if field.type is bool:
            absl_flags.DEFINE_bool(**shared)
        elif field.many:
            absl_flags.DEFINE_multi(field, None, **shared)
        elif name != positional:
            absl_flags.DEFINE(field, **shared)
    return flags


def _built(kind, values):
    """An instance of a dataclass from the values of its flags, dict."""
    hints, arguments = typing.get_type_hints(kind), {}
    for name in (field.name for field in dataclasses.fields(kind)):
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = _built(hints[name], values)
        elif name in values:
            arguments[name] = tuple(values[name]) if isinstance(values[name], list) else values[name]
    return kind(**arguments)


def _values(config):
    """The values of all fields of settings and of their groups: dict of name -> value."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values |= _values(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return values


def _text(value):
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _expanded(argv, place="", depth=0):
    """Yields (arguments, place) with flagfiles expanded; the place is "" or a flagfile's line. Raises UsageError."""
    own, arguments = [], iter(argv)
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if name != "flagfile" or not argument.startswith("-"):
            own.append(argument)
            continue
        path = value if equals else next(arguments, "")
        if depth == _NESTING:
            raise UsageError(f"--flagfile={path}: flagfiles are nested too deeply, or include each other{place}")
        yield own, place
        yield from _lines_of(path, place, depth)
        own = []
    yield own, place


def _lines_of(path, named_at, depth):
    try:
        # utf-8-sig skips the byte order mark that some editors write.
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", "it is not a text file")
        raise UsageError(f"--flagfile={path}: cannot be read ({reason}){named_at}") from None
    for number, line in enumerate(lines, 1):
        line, place = line.strip(), f" ({path}, line {number})"
        if not line or line.startswith(("#", "//")):
            continue
        value = line.partition("=")[2]
        if re.search(r"\s#", value) and not os.path.exists(os.path.expanduser(value)):
            raise UsageError(f"{line}: a comment must be on its own line{place}")
        if value[:1] in ("'", '"') and value[-1:] == value[:1]:
            raise UsageError(f"{line}: values in a flagfile must not be quoted{place}")
        yield from _expanded([line], place, depth + 1)
