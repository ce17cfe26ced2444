"""What the entry points of all tasks share: from flags to result files.

`main` for a command line; `run` for what it asks for, as a value.
"""

import sys
from pathlib import Path

from runner.job_of_flags import job_of_flags
from runner.stages import run
from util.arguments import DataArguments
from util.command_line import parse_arguments
from util.errors import UsageError


def main(data: type[DataArguments]) -> int:
    """Runs the command line of a task. data: flags of its data, which know the task. Returns the exit code:
    0, or 2 after one line about bad input."""
    try:
        run(job_of_flags(parse_arguments(sys.argv[1:], data)))
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    return 0
