#!/usr/bin/env bash
# Makes the environment and passes the tests, in a process a core, up to eight, of one thread each; tests that are
# about threads ask for theirs. The tests of a file run in one process, which makes once what they share. Extra
# arguments go to pytest: bash scripts/test.sh -k policy
set -euo pipefail
source "$(dirname "$0")/environment.sh"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pyright --pythonpath "$PYTHON"
OMP_NUM_THREADS=1 "$PYTHON" -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile "$@"
