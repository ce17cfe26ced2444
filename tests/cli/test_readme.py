"""What README and docs say can be done: commands parse, files exist, examples run, tables are current."""

import importlib.util
import os
import re
import shlex

import numpy as np
import pytest

import generate
from benchmarks.results_page import PAGES
from benchmarks.results_tables import TABLES as RESULTS
from tests.cli.conftest import ROOT
from util.arguments import DataArguments
from util.command_line import parse_arguments
from util.flags_page import PAGE as FLAGS_PAGE
from util.flags_page import TABLES as FLAGS
from util.pages import with_tables
from util.task_arguments import AnswerArguments, TranslationArguments

FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
BLOCKS = [
    (name, *found) for name, text in TEXTS.items() for found in re.findall(r"```(\w+)\n(.*?)```", text, re.S)
]
# In blocks, and between backticks in the text: "python …" up to a comment.
SHELL = [
    line.split(" #")[0].strip()
    for _, language, text in BLOCKS
    if language == "bash"
    for line in text.replace("\\\n", " ").splitlines()
] + [" ".join(found.split()) for text in TEXTS.values() for found in re.findall(r"`(python [^`…]+)`", text)]
TASKS = {
    "run_summarization.py": DataArguments,
    "run_translation.py": TranslationArguments,
    "run_question_answering.py": AnswerArguments,
}
COMMANDS = sorted(
    {line for line in SHELL if re.match(r"python (run_[st]\w+|run_question\w+|generate)\.py -", line)}
)
MODULES = sorted({found for line in SHELL for found in re.findall(r"^python -m ([\w.]+)", line)})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, *flags = shlex.split(command)[1:]
    if "--help" in flags:
        return
    if script == "generate.py":
        generate.parse(flags)
    else:
        parse_arguments(flags, TASKS[script])


def test_there_are_commands_of_every_entry_point_that_the_readme_shows():
    assert {shlex.split(command)[1] for command in COMMANDS} >= {"run_summarization.py", "generate.py"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_exist(module):
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_pages_link_to_exists(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    for link in links:
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in _anchors(target.read_text(encoding="utf-8")), link
    named = re.findall(r"bash (?:\./)?([\w/]+\.sh)", text)
    named += re.findall(r"`((?:src|util|docs|scripts|benchmarks|tests|models|runner)/[\w./]+\.\w+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]


def _anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_s_map_is_of_this_folder():
    tree = re.search(r"```\n(generate\.py.*?)```", TEXTS["README.md"], re.S)[1]
    named = [name for line in tree.splitlines() for name in re.split(r"\s{3,}", line)[0].split()]
    assert not [name for name in named if not (ROOT / name).exists()]
    shown = {name.rstrip("/") for name in named}
    assert {path.name for path in ROOT.glob("*.py")} <= shown


def test_scripts_are_valid_shell():
    scripts = [*ROOT.glob("*.sh"), *(ROOT / "scripts").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")]
    for script in [*scripts, ROOT / ".ci" / "run"]:
        assert os.system(f"bash -n {shlex.quote(str(script))}") == 0, script


def test_the_readme_s_example_runs(model, capsys):
    code = next(text for name, language, text in BLOCKS if (name, language) == ("README.md", "python"))
    assert len(code.strip().splitlines()) <= 12
    exec(code.replace("save/train", str(model)), scope := {})
    assert capsys.readouterr().out.endswith(f"\n{scope['output'].exit_layers[0]}\n")
    assert 0 < scope["output"].exit_layers.max() <= 3


def test_the_example_of_calibration_runs(capsys):
    code = next(text for name, _, text in BLOCKS if name == "calibration.md" and "import calibrate" in text)
    generator = np.random.default_rng(0)
    table = generator.uniform(size=(400, 3)) * [0.02, 0.1, 0.9]
    exec(code, {"loss_table": table, "thresholds": [0.9, 0.5, 0.1]})
    assert capsys.readouterr().out.split() == ["True", "0.5"]


@pytest.mark.parametrize(
    ("page", "tables"),
    [*((page, RESULTS) for page in PAGES), (FLAGS_PAGE, FLAGS)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_tables_are_current(page, tables):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table:" in text
    assert with_tables(text, tables) == text, f"{page.name}: run benchmarks.results_page and util.flags_page"


def test_every_table_is_shown():
    shown = {name for text in TEXTS.values() for name in re.findall(r"<!-- table: (\w+) -->", text)}
    assert shown >= {*RESULTS, *FLAGS}
