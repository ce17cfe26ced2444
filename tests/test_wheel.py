"""What people get who install the package: it imports, and decodes, with nothing of this folder beside it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from early_exit import ExitPolicy
from tests.tiny import MODELS

ROOT = Path(__file__).parents[1]
PROGRAM = """
import importlib.util
import sys

import early_exit
from early_exit import ExitPolicy, load_model
import torch

assert early_exit.__file__.startswith(sys.argv[1]), early_exit.__file__
assert not [name for name in ("util", "models", "trainers") if importlib.util.find_spec(name)]
model = load_model(sys.argv[2]).eval()
inputs = torch.tensor([[5, 6, 7, 1]])
exits = ExitPolicy(measure="softmax", threshold=0.2)
output = model.generate(input_ids=inputs, exit_policy=exits, max_new_tokens=5, return_dict_in_generate=True)
print(output.sequences.tolist(), output.exit_layers.tolist())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel's contents."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    no_caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=no_caches)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run(
        [*command, "--wheel-dir", folder, source], check=True, env={**os.environ, "PYTHONPATH": ""}
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_it_holds_the_library_and_says_that_it_is_typed(installed):
    assert sorted(path.name for path in installed.iterdir() if path.suffix != ".dist-info") == ["early_exit"]
    ours = {path.relative_to(ROOT / "src") for path in (ROOT / "src" / "early_exit").rglob("*.py")}
    assert all((installed / path).is_file() for path in ours)
    assert (installed / "early_exit" / "py.typed").is_file()
    assert (installed / "early_exit" / "models" / "loading.py").is_file()


def test_it_decodes_in_an_empty_folder(installed, tmp_path):
    model = MODELS["t5"]
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "empty").mkdir()
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(installed), str(tmp_path / "checkpoint")],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    output = model.generate(
        input_ids=torch.tensor([[5, 6, 7, 1]]),
        exit_policy=ExitPolicy(measure="softmax", threshold=0.2),
        max_new_tokens=5,
        return_dict_in_generate=True,
    )
    assert run.stdout == f"{output.sequences.tolist()} {output.exit_layers.tolist()}\n"
