# Sourced by the other scripts: goes to the project's root, makes .venv and installs the pinned requirements
# where that has not been done yet, and sets PYTHON. To use an environment of your own, set PYTHON yourself.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
  PYTHON="$PWD/.venv/bin/python"
  stamp=.venv/installed-requirements.txt
  if ! cmp -s requirements.txt "$stamp"; then
    python3 -m venv .venv
    "$PYTHON" -m pip install --quiet --requirement requirements.txt
    cp requirements.txt "$stamp"
  fi
fi
