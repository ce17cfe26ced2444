"""Who may import whom, as `pyproject.toml` says; and that a breach is found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{root}:{root / 'src'}", "PATH": ""},
    )


def test_import_rules_hold():
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("src/early_exit/policy.py", "import transformers"),
        ("src/early_exit/policy.py", "import early_exit.models.shapes"),
        ("models/shapes.py", "import util.files"),
        ("trainers/joint.py", "import util.files"),
        ("runner/texts.py", "import util.exit_arguments"),
        ("runner/texts.py", "import runner.job_of_flags"),
        ("util/data.py", "import util.command_line"),
    ],
)
@pytest.mark.slow
def test_a_breach_is_found(tmp_path, file, line):
    for folder in ("src", "models", "trainers", "util", "runner"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as handle:
        handle.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "BROKEN" in result.stdout
