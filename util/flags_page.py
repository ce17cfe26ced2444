"""Writes the tables of docs/cli.md anew: the flags of the entry points, from the dataclasses that hold them.

python -m util.flags_page
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import partial
from pathlib import Path

from util.command_line import GROUPS
from util.generate_arguments import GenerateArguments
from util.pages import rewrite
from util.results import markdown_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"


def flags_table(group: type) -> str:
    """A row a flag. group: a dataclass of flags."""
    rows = [["flag", "default", "meaning"]]
    for each in fields(group):
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


# By the name of the dataclass; transformers' own are transformers' to explain.
TABLES: dict[str, Callable[[], str]] = {
    group.__name__: partial(flags_table, group)
    for group in (*GROUPS, GenerateArguments)
    if group.__name__ != "Seq2SeqTrainingArguments"
}

if __name__ == "__main__":
    rewrite(PAGE, TABLES)
