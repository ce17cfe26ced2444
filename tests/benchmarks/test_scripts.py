"""The other benchmarks run: each with tiny sizes, in this process; what they write is looked at."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT.parent / "shared" / "checkpoints" / "e2e-small"
THREADS = ("--threads", str(torch.get_num_threads()))  # other tests go on with as many


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark with flags; returns the rows that it wrote."""

    def call(script: str, *flags: str) -> list[dict]:
        path = tmp_path / "results.json"
        monkeypatch.setattr(sys, "argv", [script, *flags, "--json", str(path)])
        runpy.run_module(f"benchmarks.{script}", run_name="__main__")
        return json.loads(path.read_text())["rows"]

    return call


def test_confidence_cost(run):
    sizes = "--shape tiny --batch 1 --source 8 --new-tokens 2 --quick --precision float32"
    rows = run("confidence_cost", *sizes.split(), *THREADS)
    assert rows[0]["method"] == "no confidence"
    assert rows[0]["ratio_to_no_confidence"] == 1


def test_ways_to_gather_rows_of_the_head(run):
    sizes = "--gather --shape tiny --batch 1 --quick"
    assert {row["k"] for row in run("confidence_cost", *sizes.split(), *THREADS)} == {2000, 10000}


def test_head_training(run):
    sizes = "--shape tiny --vocabulary 100 --batch 1 --source 8 --target 4 --rounds 1"
    assert run("head_training", *sizes.split())[-1]["heads"] == "all together"


def test_guarantee(run, tmp_path):
    quality = 1 - np.linspace(0, 0.5, 6) * np.random.default_rng(0).uniform(size=(40, 1))
    np.savez(tmp_path / "table.npz", thresholds=np.linspace(1, 0.5, 6), rouge_l=quality)
    rows = run("guarantee", "--loss-table", str(tmp_path / "table.npz"), "--n", "20", "--redraws", "3")
    assert all(0 <= row["violation_rate"] <= 1 for row in rows)


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
