"""All figures and tables on one page: what the paper says, what the release says, and what was found here.

    python -m keras_alexnet.paper.report [--results_dir=results] [--out=RESULTS/report.html] [--markdown=FILE.md]

Reads what the other commands of this folder left below RESULTS and runs nothing itself; with --quick, what their trials
left below RESULTS/quick. The page holds its pictures and needs neither network nor script. What was not run is on it
too, with the command that would run it. With --markdown the same is written for where HTML is not shown; it links to
the pictures.
"""

import os
import sys

from keras_alexnet.cli import run_command
from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.paper import config, markdown, page, results
from keras_alexnet.paper.sections import collect

# Modules of this folder in the order of the report; what each is to have stands at the head of `results`.
NAMES = (
    "figure1", "cifar10_lrn", "figure3", "figure4", "retrieval", "table1", "table2", "ablations", "start",
)  # fmt: skip


def main(argv):
    settings = config.parse_report(argv, __doc__)
    if os.path.exists(settings.results_dir) and not os.path.isdir(settings.results_dir):
        raise UsageError(f"--results_dir={settings.results_dir}: is no folder; name the one that the commands wrote to")
    sections = collect(settings.results_dir, NAMES)
    _write("out", settings.out, page.page(sections))
    if settings.markdown:
        _write("markdown", settings.markdown, markdown.document(sections, settings.markdown, settings.results_dir))
    print(summary(sections).as_text())
    for section in sections:
        for problem in section.problems:
            print(f"{section.name}: {problem}", file=sys.stderr)
    print(f"\nreport: {settings.out}" + (f"\nMarkdown: {settings.markdown}" if settings.markdown else ""))


def summary(sections):
    """The table for the terminal, results.Table."""
    rows = tuple((section.name, section.state, page.verdict(section)) for section in sections)
    return results.Table("The paper's figures and tables", ("", "state", "verdict"), rows)


def _write(flag, path, text):
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--{flag}={path}: cannot be written ({error.strerror}); name another file") from None


if __name__ == "__main__":
    sys.exit(run_command("report", main, sys.argv[1:]))
