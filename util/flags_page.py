"""Writes the tables of docs/cli.md anew: the flags of the entry points, from the dataclasses that hold them.

python -m util.flags_page
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path

from util.arguments import DataArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.exit_arguments import ExitArguments
from util.generate_arguments import GenerateArguments
from util.pages import rewrite
from util.results import markdown_table
from util.task_arguments import AnswerArguments, TranslationArguments

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def flags_table(group: type, of_all: type | None = None) -> str:
    """A row a flag. group: a dataclass of flags; of_all: one whose flags are left out where they are the
    same."""
    shared = set() if of_all is None else {(each.name, _default(each)) for each in fields(of_all)}
    rows = [["flag", "default", "meaning"]]
    for each in fields(group):
        if (each.name, _default(each)) in shared:
            continue
        meaning = " ".join(each.metadata.get("help", "").split()).replace("|", "\\|")
        rows.append([f"`--{each.name}`", _default(each), meaning])
    return markdown_table(rows)


def _default(each: Field) -> str:
    if each.default is MISSING and each.default_factory is MISSING:
        return "required"
    value = each.default_factory() if each.default is MISSING else each.default
    if value is None:
        return ""
    return f"`{' '.join(map(str, value)) if isinstance(value, list) else value}`"


_GROUPS = (ModelArguments, DataArguments, ExitArguments, CalibrationArguments, GenerateArguments)

# By the name of the dataclass; transformers' own are transformers' to explain.
TABLES: dict[str, Callable[[], str]] = {
    **{group.__name__: partial(flags_table, group) for group in _GROUPS},
    **{
        group.__name__: partial(flags_table, group, of_all=DataArguments)
        for group in (TranslationArguments, AnswerArguments)
    },
}

if __name__ == "__main__":
    rewrite(PAGE, TABLES)
