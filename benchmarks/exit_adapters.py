"""Agreement with full depth by exit, before and after exit adapters, as a table.

    python -m benchmarks.exit_adapters --results benchmarks/results/exit_adapters \
        "plain, 3 layers=save/exit_adapters/after_plain"

Called by exit_adapters.sh. Reads eval_results.json of each run, by its name, and keeps it in the results.
"""

import argparse
import re
from pathlib import Path

from util.files import read_json, write_json, write_text
from util.results import markdown_table

_HEADER = ["model", "records", "exits", "agreement at exits 1 to L − 1"]


def rows_of(name: str, results: dict) -> list[list[str]]:
    """Two rows of the table: without adapters and with them."""
    return [
        [name, str(results["eval_samples"]), exits, " ".join(f"{share:.3f}" for share in results[key])]
        for exits, key in (("as they are", "eval_agreement_before"), ("adapted", "eval_agreement"))
    ]


def without_times(results: dict) -> dict:
    """Other work may have shared the machine."""
    return {name: value for name, value in results.items() if not re.search("second|runtime|_ms_", name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for run in arguments.runs:
        name, folder = run.split("=", 1)
        results = read_json(Path(folder) / "eval_results.json")
        rows += rows_of(name, results)
        write_json(arguments.results / f"{re.sub('[^a-z0-9]+', '_', name)}.json", without_times(results))
    table = markdown_table([_HEADER, *rows])
    write_text(arguments.results / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
