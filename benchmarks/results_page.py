"""Writes the tables of docs/results.md and of the README anew, from the JSON files in benchmarks/results.

python -m benchmarks.results_page
"""

from pathlib import Path

from benchmarks.results_tables import TABLES
from util.pages import rewrite

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "results.md", ROOT / "README.md")

if __name__ == "__main__":
    for page in PAGES:
        rewrite(page, TABLES)
