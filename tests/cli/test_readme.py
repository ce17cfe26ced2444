"""The README's commands parse, its scripts exist, and its example of a measure is one."""

import os
import re
import shlex

import pytest
import torch

from tests.cli.conftest import ROOT
from util.command_line import parse_arguments

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
SHELL = "\n".join(text for language, text in BLOCKS if language == "bash").replace("\\\n", " ")
# One command is kept in a variable and used with further flags.
EVALUATE = re.search(r'EVALUATE="([^"]*)"', SHELL).group(1)
COMMANDS = [
    line.split("#")[0].replace("$EVALUATE", EVALUATE)
    for line in SHELL.splitlines()
    if re.match(r"python run_summarization|\$EVALUATE", line)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parse_arguments(shlex.split(command)[2:])


def test_there_are_commands():
    assert len(COMMANDS) == 4


def test_paths_exist():
    tree = next(
        text for language, text in re.findall(r"```(\w*)\n(.*?)```", README, flags=re.S) if "src/" in text
    )
    named = re.findall(r"^(\S+)", tree, flags=re.M) + re.findall(r"bash (\S+\.sh)", README)
    named += [path for path in re.findall(r"\]\(([^)#]+)\)", README) if not path.startswith("http")]
    named += re.findall(r"`((?:src|util|docs|scripts|benchmarks|tests)/[\w./]+)`", README)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_scripts_are_valid_shell():
    scripts = [*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")]
    for script in [*scripts, ROOT / ".ci" / "run"]:
        assert os.system(f"bash -n {shlex.quote(str(script))}") == 0, script


def test_the_example_of_a_measure_is_a_measure():
    code = next(text for language, text in BLOCKS if language == "python" and "MEASURES" in text)
    scope = {"torch": torch, "Tensor": torch.Tensor}
    exec(code.split("MEASURES")[0], scope)
    confidence = scope["hidden_norm_stability"](torch.randn(5, 8), torch.randn(5, 8))
    assert confidence.shape == (5,)
    assert ((confidence >= 0) & (confidence <= 1)).all()
