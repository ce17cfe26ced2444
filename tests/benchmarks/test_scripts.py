"""The other benchmarks run: each with tiny sizes, in this process; what they write is looked at."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.confidence_cost import METHODS, ways_to_gather
from benchmarks.systems import Setting, random_model, random_source
from early_exit.linear import pack

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT.parent / "shared" / "checkpoints" / "e2e-small"
THREADS = ("--threads", str(torch.get_num_threads()))  # other tests go on with as many


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark with flags; returns the rows that it wrote."""

    def call(script: str, *flags: str) -> list[dict]:
        path = tmp_path / "results.json"
        monkeypatch.setattr(sys, "argv", [script, *flags, "--json", str(path)])
        monkeypatch.delitem(sys.modules, f"benchmarks.{script}", raising=False)  # runpy warns of it
        runpy.run_module(f"benchmarks.{script}", run_name="__main__")
        return json.loads(path.read_text())["rows"]

    return call


def test_confidence_cost(run):
    sizes = "--shape tiny --batch 1 --source 8 --new-tokens 2 --quick --precision float32"
    rows = run("confidence_cost", *sizes.split(), *THREADS)
    assert [row["method"] for row in rows] == list(METHODS)
    assert rows[0]["ratio_to_no_confidence"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_what_asks_for_confidence_runs_all_layers(method):
    """Else its cost would be another's."""
    model = random_model("tiny")
    for name in {"vanilla_classifier", "MLP"} - set(model.exit_heads):
        model.add_exit_heads(name)
    output = model.generate(
        input_ids=random_source(Setting("tiny", 2, 8, 3, seed=0)), max_new_tokens=3,
        exit_policy=METHODS[method], return_dict_in_generate=True,
    )  # fmt: skip
    assert (output.exit_layers == model.num_exits).all()
    asked = (output.max_stay_confidence > 0).tolist()
    assert asked == 2 * [not method.startswith("no confidence")]


def test_ways_to_gather_rows_of_the_head(run):
    sizes = "--gather --shape tiny --batch 1 --quick"
    assert {row["k"] for row in run("confidence_cost", *sizes.split(), *THREADS)} == {2000, 10000}


def test_all_ways_to_gather_give_the_same():
    weight, states = torch.randn(90, 16), torch.randn(3, 16)
    ids = torch.randint(90, (3, 20))
    ways = ways_to_gather(weight, pack(weight, "float32"), pack(weight, "int8"), states, ids)
    expected = torch.stack([weight[own] @ state for own, state in zip(ids, states, strict=True)])
    products = [name for name in ways if name.startswith(("product", "all logits"))]
    assert len(products) == 4
    for name in products:
        torch.testing.assert_close(ways[name](), expected, atol=0.2 if "int8" in name else 1e-4, rtol=0)
    for name in ("gather K rows: weight[ids]", "gather K rows: index_select"):
        assert torch.equal(ways[name]().reshape(3, 20, 16), torch.stack([weight[own] for own in ids]))


def test_head_training(run):
    sizes = "--shape tiny --vocabulary 100 --batch 1 --source 8 --target 4 --rounds 1"
    *apart, together = run("head_training", *sizes.split())
    assert sum(row["ratio_to_all_apart"] for row in apart) == pytest.approx(1)
    assert together["heads"] == "all together"


def test_guarantee(run, tmp_path):
    """Losses that are nearly the same for all prompts: what is certified is known by hand."""
    # Losses 0, 0.07, and 0.5 or 0.6 for an easy and a hard group; δ = 0.05.
    quality = np.tile([[1.0, 0.93, 0.5], [1.0, 0.93, 0.4]], (20, 1))
    np.savez(tmp_path / "table.npz", rouge_l=quality, exit_layer=np.array([6.0, 4.0, 1.0]))
    rows = run("guarantee", "--loss-table", str(tmp_path / "table.npz"), "--n", "100", "--redraws", "60")
    by_bound = {row["what"]: row for row in rows if row["kind"] == "bound"}
    certified = {name: row["certified_rate"] for name, row in by_bound.items()}
    # 0.95 ** 59 < 0.05, so 100 prompts without loss are enough, but for Hoeffding: exp(-2 * 100 * 0.05 ** 2)
    assert certified == {"wsr": 1, "hoeffding_bentkus": 1, "binomial": 1, "hoeffding": 0}
    assert all(row["layers"] == 6 for row in by_bound.values())
    naive = {row["what"]: row["layers"] for row in rows if row["kind"] == "naive"}
    assert naive == {"naive 90%": 4, "naive 95%": 6}
    assert not any(
        row["violation_rate"] for row in rows if row["kind"] in ("bound", "test", "knobs", "naive")
    )


def test_precision(run, tmp_path):
    if not CHECKPOINT.exists():
        pytest.skip("no trained checkpoint here")
    records = [
        {"document": f"name[The Rice Boat], food[{food}]", "summary": food} for food in ("Thai", "Cod")
    ]
    data = tmp_path / "records.json"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = run("precision", "--model", str(CHECKPOINT), "--file", str(data), "--new-tokens", "4")
    exact = [row for row in rows if row["precision"] == "float32"]
    assert all(row["tokens_identical"] == 1 for row in exact)


def test_drafts_and_what_transformers_has_of_its_own(run):
    records = CHECKPOINT.parent.parent / "data" / "e2e" / "validation.json"
    sizes = "--samples 2 --length 8 --batch 1 2 --precisions float32 --ratios 0.5 --sizes 2 --turns 1"
    rows = run("drafts", str(CHECKPOINT), str(records), *sizes.split(), *THREADS)
    peers = [row for row in rows if row["system"].startswith("generate, ")]
    assert len(peers) == 4
    assert all(row["same_texts"] == 1 for row in peers if row["batch"] == 1)
    assert all("batch_size = 1" in row["error"] for row in peers if row["batch"] == 2)
    assert all(row["same_texts"] == 1 for row in rows if "exact" in row["system"])
