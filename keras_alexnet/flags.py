"""Settings are fields of dataclasses, and every field is a flag: the only module that knows absl.

    @dataclasses.dataclass(frozen=True)
    class TrainingConfig:
        learning_rate: float = flag(0.01, "Learning rate at the start.", low=0)

    config = flags.parse(TrainingConfig, ["--learning_rate=0.02"], usage)

A field whose type is a dataclass is a group of flags. Flags come from the command line and from flagfiles
(`--flagfile=flags/paper.cfg`, one flag a line, # begins a comment line); a later flag wins.
"""

import dataclasses
import inspect
import math
import os
import re
import textwrap
import typing

from absl import flags as absl_flags

from keras_alexnet.errors import ArgumentError, UsageError, printable

LARGEST = 2**31 - 1  # of whole numbers: what TensorFlow's int32 holds
_HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")
_NESTING = 10  # flagfiles within flagfiles


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
    first=False,
    free=False,
    saved=True,
):
    """A dataclass field that is a flag of the same name.

    Args:
        default: what it is when it is not given; None only where the type allows it.
        help: str, printed by `--help`.
        low, high: bounds that the value may reach.
        above, below: bounds that it may not reach.
        choices: sequence of allowed values.
        many: bool, the flag may be given several times; the field is a tuple.
        path: bool, a leading ~ is the home folder.
        first: bool, `--help` shows it among those that most people need first.
        free: bool, it may change when a run resumes.
        saved: bool, it is written to a run's flags.cfg.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    return dataclasses.field(default=default, metadata=metadata)


def parse(kind, argv, usage, positional=None):
    """Flags -> settings.

    Args:
        kind: dataclass whose fields are flags, or groups of them.
        argv: list of str, without the program's name.
        usage: str, printed above the flags by `--help`.
        positional: str, the field that takes the arguments that are not flags; None where there are none.

    Returns:
        an instance of `kind`.

    Raises:
        UsageError: a flag is unknown, malformed or out of range; one line that names it, and the flagfile's line.
        SystemExit: with code 0, after `--help`.
    """
    if any(argument in _HELP for argument in argv):
        print(help_text(kind, usage, positional))
        raise SystemExit(0)
    arguments = list(_expanded(argv))
    values = _defined(kind, positional)
    try:
        rest = values(["keras_alexnet", *(argument for argument, _ in arguments)])[1:]
    except absl_flags.Error as error:
        # absl's message names the flag, the value and what is allowed.
        message = str(error).removeprefix("ERROR:: ").removeprefix("flag ")
        raise UsageError(message + _place_of(message, arguments)) from None
    if rest and not positional:
        raise UsageError(f"unexpected argument {rest[0]!r}: every setting is a flag, --NAME=VALUE")
    try:
        return _built(kind, values, {positional: tuple(rest)} if positional else {})
    except ArgumentError as error:
        message = f"--{error.name}={error.value}: {error.problem}"
        raise UsageError(message + _place_of(message, arguments)) from None


def read(kind, texts):
    """Settings of a kind from the texts of flags, dict as of `as_text`; what is missing has its default.

    No file is read, whatever the names are. Raises UsageError where a name is not a flag or a value not allowed.
    """
    values = _defined(kind)
    for name, text in texts.items():
        if name not in values or not isinstance(text, str):
            raise UsageError(f"{name!r} is not a flag of a run")
    try:
        # No value of a flag that may be given several times is an empty text.
        many = {name for name, field in _fields(kind).items() if field.metadata["many"]}
        given = (f"--{name}={text}" for name, text in texts.items() if text or name not in many)
        values(["keras_alexnet", *given])
        return _built(kind, values, {})
    except (absl_flags.Error, ArgumentError) as error:
        raise UsageError(str(error)) from None


def as_text(config):
    """Every saved flag of settings: dict of str -> str in the order of the names, as flagfiles take it."""
    fields, values = _fields(type(config)), _values(config)
    return {name: _text(values[name]) for name in sorted(fields) if fields[name].metadata["saved"]}


def changes(before, now):
    """What differs between two settings of one kind, except for flags that may change when a run resumes.

    Returns:
        list of str, such as "--batch_size=64 (the run has 128)".
    """
    fields, old = _fields(type(now)), as_text(before)
    return [
        f"--{name}={text} (the run has {old[name] or 'none'})"
        for name, text in as_text(now).items()
        if text != old[name] and not fields[name].metadata["free"]
    ]


def flagfile_name(argv):
    """The name of the first flagfile on a command line without folder and suffix, str; None without one."""
    for place, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if name == "flagfile" and argument.startswith("-"):
            return os.path.splitext(os.path.basename(value or "".join(argv[place + 1 : place + 2])))[0] or None
    return None


def required(config, name):
    """The value of a flag that has no default. Raises UsageError where it was not given."""
    value = _values(config)[name]
    if not value:
        text = _fields(type(config))[name].metadata["help"]
        raise UsageError(f"--{name} is missing: give {text[0].lower()}{text[1:]}")
    return value


def help_text(kind, usage, positional=None):
    """What `--help` prints: the flags that most people need first, then all others by group."""
    groups = {"Most used": []}
    for name, field in _fields(kind).items():
        if name != positional:
            groups.setdefault("Most used" if field.metadata["first"] else field.group, []).append(field)
    lines = [(usage or "").strip()]
    for title, fields in groups.items():
        lines += ["", f"{title}:"] if fields else []
        for field in fields:
            options = field.metadata["choices"]
            shown = "|".join(map(_text, options)) if options else _text(field.default)
            default = f" (default: {_text(field.default) or 'none'})" if options else ""
            lines.append(f"  --{field.name}={shown}{default}")
            lines += textwrap.wrap(field.metadata["help"], 110, initial_indent="      ", subsequent_indent="      ")
    lines += ["", "  --flagfile=FILE", "      Flags from a file, one a line; flags behind it win."]
    return "\n".join(lines)


class _Field(typing.NamedTuple):
    """A field that is a flag; metadata are the arguments of `flag`, the type is X for tuple[X, ...] and X | None."""

    name: str
    default: object
    metadata: dict
    group: str
    is_tuple: bool
    type: type


def _fields(kind):
    """The flags of a dataclass and of the dataclasses in it: dict of name -> _Field."""
    found, hints = {}, typing.get_type_hints(kind)
    # The first line of the docstring; the name where python -OO has removed it.
    title = (inspect.getdoc(kind) or kind.__name__).partition("\n")[0].rstrip(".")
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found |= _fields(hint)
        elif "help" in field.metadata:
            base = next((each for each in typing.get_args(hint) if each is not type(None)), hint)
            is_tuple = typing.get_origin(hint) is tuple
            found[field.name] = _Field(field.name, field.default, field.metadata, title, is_tuple, base)
    return found


def _defined(kind, positional=None):
    """absl's flags of a dataclass, at their defaults."""
    values = absl_flags.FlagValues()
    for name, field in _fields(kind).items():
        if name == positional:
            continue
        options = field.metadata
        shared = {"name": name, "help": options["help"], "flag_values": values}
        if options["many"]:
            absl_flags.DEFINE_multi_string(default=list(field.default), **shared)
        elif options["choices"]:
            names = [str(choice) for choice in options["choices"]]
            absl_flags.DEFINE_enum(default=_text(field.default), enum_values=names, **shared)
        elif field.is_tuple or field.type is str:
            absl_flags.DEFINE_string(default=_text(field.default), **shared)
        elif field.type is bool:
            absl_flags.DEFINE_bool(default=field.default, **shared)
        elif field.type is int:
            high = LARGEST if options["high"] is None else options["high"]
            absl_flags.DEFINE_integer(default=field.default, lower_bound=options["low"], upper_bound=high, **shared)
        else:
            bounds = {"lower_bound": options["low"], "upper_bound": options["high"]}
            absl_flags.DEFINE_float(default=field.default, **bounds, **shared)
    return values


def _built(kind, parsed, given):
    """A dataclass from the flags that absl parsed, and some given values. Raises ArgumentError of a wrong value."""
    hints, fields, found = typing.get_type_hints(kind), _fields(kind), dict(given)
    for name in (field.name for field in dataclasses.fields(kind)):
        if dataclasses.is_dataclass(hints[name]):
            found[name] = _built(hints[name], parsed, {})
        elif name in fields and name not in found:
            found[name] = _converted(fields[name], parsed[name].value)
    return kind(**found)


def _converted(field, value):
    """The value of a field from what absl has parsed."""
    options, name = field.metadata, field.name
    if len(str(value).splitlines()) > 1 or "\0" in str(value):
        # A run's flags.cfg holds one flag a line, and no path has a null character.
        raise ArgumentError(name, printable(str(value)), "must not contain line breaks or null characters")
    if options["many"]:
        return tuple(os.path.expanduser(each) if options["path"] else each for each in value)
    if options["choices"]:
        return next(choice for choice in options["choices"] if str(choice) == value)
    if field.is_tuple:
        return tuple(_items(name, value, field.type))
    if value is None:
        return None
    if isinstance(value, float) and not math.isfinite(value):
        raise ArgumentError(name, value, "must be a finite number")
    if options["above"] is not None and value <= options["above"]:
        raise ArgumentError(name, value, f"must be above {options['above']}")
    if options["below"] is not None and value >= options["below"]:
        raise ArgumentError(name, value, f"must be below {options['below']}")
    if value == "" and field.default is None:
        return None
    return os.path.expanduser(value) if options["path"] and value else value


def _items(name, text, kind):
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        try:
            item = kind(part)
        except ValueError:
            item = math.nan
        if isinstance(item, float) and not math.isfinite(item):
            raise ArgumentError(name, text, f"must be {'whole ' * (kind is int)}numbers separated by commas")
        if isinstance(item, int) and not 0 <= item <= LARGEST:
            raise ArgumentError(name, text, f"must be whole numbers from 0 to {LARGEST}")
        yield item


def _values(config):
    """The values of all fields of settings and of the groups in them, dict."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found |= _values(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return found


def _text(value):
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _expanded(argv, source="", depth=0):
    """Pairs of (argument, where it stands or ""), flagfiles replaced by their lines. Raises UsageError."""
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "flagfile" and argument.startswith("-"):
            path = value if equals else next(arguments, "")
            if depth == _NESTING:
                raise UsageError(f"--flagfile={path}: flagfiles are nested too deeply, or name each other{source}")
            yield from _lines_of(path, source, depth)
        else:
            yield argument, source


def _lines_of(path, source, depth):
    try:
        # utf-8-sig skips the byte order mark that some editors write.
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError:
        raise UsageError(f"--flagfile={path}: is not a text file of flags{source}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--flagfile={path}: cannot be read ({reason}){source}") from None
    for number, line in enumerate(lines, 1):
        line, place = line.strip(), f" ({path}, line {number})"
        if not line or line.startswith(("#", "//")):
            continue
        value = line.partition("=")[2]
        if re.search(r"\s#", value):
            raise UsageError(f"{line}: a comment needs a line of its own{place}")
        if value[:1] in ("'", '"') and value[-1:] == value[:1]:
            raise UsageError(f"{line}: a value has no quotes in a flagfile{place}")
        yield from _expanded([line], place, depth + 1)


def _place_of(message, arguments):
    """Where the flag that an error names stands in a flagfile, str; "" on the command line."""
    named = re.search(r"--([a-z][a-z0-9_]*)", message) or re.search(r"flag '([a-z][a-z0-9_]*)'", message)
    pattern = rf"--?(no)?{re.escape(named[1])}(=.*)?" if named else "(?!)"
    places = [place for argument, place in arguments if re.fullmatch(pattern, argument, re.DOTALL)]
    return places[-1] if places else ""
