"""Pages whose tables are written by a script: between `<!-- table: name -->` and `<!-- end -->`."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from util.files import write_text

_TABLE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.S)


def with_tables(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A page with its tables made anew. Raises KeyError for a table that there is none of."""
    return _TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n{tables[found[1]]()}\n<!-- end -->", text)


def rewrite(page: Path, tables: Mapping[str, Callable[[], str]]) -> None:
    """Makes the tables of a file anew."""
    write_text(page, with_tables(page.read_text(encoding="utf-8"), tables))
