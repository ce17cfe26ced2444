"""python -m util.report FOLDER: see `util.report`."""

import argparse
import sys
from pathlib import Path

from util.errors import UsageError
from util.report import __doc__ as about
from util.report import write_report


def main() -> int:
    """Writes the report of a folder. Returns the exit code: 0, or 2 after one line about bad input."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output folder of a run, or a folder of such folders")
    try:
        print(write_report(parser.parse_args().folder))
    except UsageError as error:
        print(f"util.report: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
