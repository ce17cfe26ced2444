"""Reports: what stands in the page, that it stands alone, and that no text of a file becomes markup."""

import re
import sys
from html.parser import HTMLParser

import pytest

from util.files import write_json
from util.report import write_report
from util.report.__main__ import main
from util.run_folder import TEXTS_FILE

SCRIPT = "<script>alert('x')</script>"


def text(pieces, layers=None, dropped=()):
    layers = layers or [1] * len(pieces)
    return {
        "pieces": pieces,
        "exit_layers": layers,
        "confidences": [0.5 if layer < 3 else None for layer in layers],
        "dropped": [list(each) for each in dropped],
    }


def setting(name, texts, full_depth=False, losses=None):
    return {"setting": name, "policy": {}, "full_depth": full_depth, "losses": losses, "texts": texts}


def point(name):
    metrics = {
        "eval_rougeL": 40.0, "eval_block_avg": 1.5, "eval_ms_per_token": 2.0,
        "eval_exit_layer_counts": [3, 1, 2],
    }  # fmt: skip
    return {"setting": name, "metrics": metrics, "command": f"python run.py {SCRIPT}", "seed": 1}


@pytest.fixture
def run(tmp_path):
    """A sweep with two texts, whose document, reference and pieces try to be markup."""
    prompts = [{"document": f"one {SCRIPT}", "reference": None}, {"document": "two", "reference": SCRIPT}]
    full = [text(["A", " cat", ""], [3, 3, 3]), text([" a", " b", " c"], [3, 3, 3])]
    early = [
        text(["A", " cat", ""], [1, 3, 1]),
        text([" a", SCRIPT, " c"], [2, 1, 1], [(1, " x"), (2, " y")]),
    ]
    settings = [setting("static 3", full, full_depth=True), setting(f"λ {SCRIPT}", early)]
    write_json(tmp_path / TEXTS_FILE, {"layers": 3, "prompts": prompts, "settings": settings})
    write_json(tmp_path / "sweep.json", {"points": [point("static 3"), point("softmax λ=0.5")]})
    write_json(tmp_path / "sweep_run.json", {"settings": {"source_prefix": SCRIPT}, "finished": True})
    return tmp_path


class Page(HTMLParser):
    """Tags with their attributes, and all text outside of style sheets."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # tags are closed in order

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text += data


def page(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_texts_are_no_markup_and_nothing_is_loaded(run):
    found = page(run)
    names = [tag for tag, _ in found.tags]
    assert not {"script", "link", "iframe", "object", "embed"} & set(names)
    links = [
        value for _, attributes in found.tags for name, value in attributes.items() if name in ("src", "href")
    ]
    assert links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not [name for _, attributes in found.tags for name in attributes if name.startswith("on")]
    assert found.text.count(SCRIPT) == 6  # document, reference, piece, setting's name, command, flag


def test_tokens_have_layers_and_confidences(run):
    tokens = [attributes for tag, attributes in page(run).tags if tag == "i" and "title" in attributes]
    assert [attributes["title"] for attributes in tokens] == [
        "layer 2, confidence 0.500", "layer 1, confidence 0.500", "layer 1, confidence 0.500",
        "layer 1, confidence 0.500", "layer 3", "layer 1, confidence 0.500",
    ]  # fmt: skip
    assert [attributes["class"] for attributes in tokens] == ["c2", "c1 differs", "c1", "c1", "c3", "c1"]


def test_the_largest_loss_comes_first_and_dropped_drafts_are_struck_through(run):
    html = write_report(run).read_text(encoding="utf-8")
    losses = [float(value) for value in re.findall(r"loss ([\d.]+) ·", html)]
    assert losses == [pytest.approx(0.667, abs=0.2), 0.0]
    assert "<del> x y</del>" in html  # drafts that were dropped together


def test_losses_of_the_run_itself_are_shown(run, tmp_path):
    own = setting("softmax", [text(["a"]), text(["b"])], losses=[0.25, 0.75])
    prompts = [{"document": "d", "reference": None}] * 2
    write_json(tmp_path / TEXTS_FILE, {"layers": 3, "prompts": prompts, "settings": [own]})
    found = page(tmp_path).text
    assert found.index("loss 0.750") < found.index("loss 0.250")
    assert "mean loss 0.500, 2 of 2 texts above 0" in found


def test_a_folder_of_runs_has_a_section_for_each(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        run_folder = folder / name
        run_folder.mkdir()
        for file in run.iterdir():
            (run_folder / file.name).write_bytes(file.read_bytes())
    found = page(folder)
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert identifiers == ["texts0", "texts1"]


def test_the_same_files_give_the_same_page(run):
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_folder_without_results_is_refused(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / name)])
    assert main() == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
