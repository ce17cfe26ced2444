"""Every script that reads the shared settings runs the entry point of TASK, with its languages."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [
    script.relative_to(ROOT)
    for script in sorted([*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh")])
    if "settings.sh" in script.read_text() and script.name != "settings.sh"
]


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_a_script_runs_its_task(tmp_path, script):
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> {shlex.quote(str(calls))}\necho >> {calls}\n')
    python.chmod(0o755)
    settings = {
        "PATH": os.environ["PATH"], "PYTHON": str(python), "TASK": "translation", "SOURCE_LANG": "de",
        "TARGET_LANG": "en", "MODEL": "a_model", "OUTPUT_DIR": str(tmp_path / "out"),
    }  # fmt: skip
    subprocess.run(["bash", script], cwd=ROOT, env=settings, capture_output=True, check=True)
    entries = [line for line in calls.read_text().splitlines() if line.startswith("run_")]
    assert entries
    for entry in entries:
        assert entry.startswith("run_translation.py ")
        assert "--source_lang de --target_lang en " in entry
        assert "summarize" not in entry
