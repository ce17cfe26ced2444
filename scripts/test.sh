#!/usr/bin/env bash
# Makes the environment and passes the tests. Extra arguments go to pytest: bash scripts/test.sh -k policy
set -euo pipefail
source "$(dirname "$0")/environment.sh"

"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -m pytest "$@"
