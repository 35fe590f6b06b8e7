"""Flags that nobody would give: whatever they are, a config or one line, and never a stack trace."""

import dataclasses
import string

from absl import flags as absl_flags
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keras_alexnet import config
from keras_alexnet.errors import UsageError
from keras_alexnet.paper import config as paper_recipe

PARSERS = {
    "train": config.parse_train,
    "evaluate": config.parse_evaluate,
    "predict": config.parse_predict,
    "export": config.parse_export,
    **{
        name: getattr(paper_recipe, name)
        for name in dir(paper_recipe)
        if name.startswith("parse_") and name not in ("parse_evaluate", "parse_train", "parse_flags")
    },
}  # fmt: skip
# Values that flags of some kind take or almost take.
WORDS = (
    "", " ", "0", "1", "-1", "2", "1e9", "1e999", "-inf", "nan", "0x10", "1_0", "0.5", "99999999999999999999", "true",
    "none", "auto", "paper", "folder", "records", "shapes", "schedule", "GPU:0,GPU:0", "CPU:0,CPU:1,CPU:2", "no",
    "1:0.1,2:bias=0", "0:conv9=1", "1:x=1e400", "0.3,0.7", "search", "1,2", "2,1", "fc8,conv1", "32,64", "équipe",
    "../..", "/dev/null", "a\nb", "\x00", "--seed", "=", ",,,", "conv2,conv2", "multi_worker", "mirrored", "10",
)  # fmt: skip


def names_of(parser):
    """The flags of a parser, seen where absl's are defined."""
    defined, define = [], absl_flags.FlagValues.__setitem__

    def note(self, name, flag):
        defined.append(name)
        return define(self, name, flag)

    absl_flags.FlagValues.__setitem__ = note
    try:
        parser(["--help_is_no_flag"], "usage")
    except (UsageError, SystemExit):
        pass
    finally:
        absl_flags.FlagValues.__setitem__ = define
    return sorted(set(defined))


NAMES = {name: names_of(parser) for name, parser in PARSERS.items()}


def test_all_flags_are_known_here():
    assert {"model_dir", "batch_size", "strategy", "dry_run", "lr_schedule"} <= set(NAMES["train"])
    assert len(NAMES["train"]) > 45 and all(len(names) > 1 for names in NAMES.values())


@st.composite
def commands(draw):
    command = draw(st.sampled_from(sorted(PARSERS)))
    value = st.one_of(st.sampled_from(WORDS), st.text(alphabet=string.printable, max_size=12))
    argument = st.one_of(
        st.builds("--{}={}".format, st.sampled_from(NAMES[command]), value),
        st.builds("--{}".format, st.sampled_from(NAMES[command])),
        st.builds("--no{}".format, st.sampled_from(NAMES[command])),
        st.text(alphabet=string.printable, max_size=8),
    )
    return command, draw(st.lists(argument, max_size=8))


@settings(max_examples=600, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(commands())
@example(("train", ["--dataset=shapes", "--model_dir=run", "--strategy=multi_worker", "--devices=GPU:0"]))
@example(("train", ["--flagfile=/dev/null"]))
def test_any_flags_are_a_recipe_or_one_line(command):
    command, argv = command
    try:
        found = PARSERS[command](argv, "usage")
    except UsageError as error:
        assert str(error).strip()
        return
    except SystemExit as ended:
        assert ended.code == 0  # --help
        return
    # What is taken can be written down and is then taken again.
    if command == "train":
        text = "".join(f"--{name}={value}\n" for name, value in found.resolved)
        if "\n" not in "".join(value for _, value in found.resolved):
            assert dataclasses.replace(config.read_run(text), resolved=()) == dataclasses.replace(
                found, run=dataclasses.replace(found.run, dry_run=False), resolved=()
            )
