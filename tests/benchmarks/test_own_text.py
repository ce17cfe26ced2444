"""What the benchmark of training says of a checkpoint, on a few records."""

import json
import runpy
import sys

import pytest
import torch

from benchmarks.checkpoint import agreement
from tests.benchmarks.test_scripts import CHECKPOINT
from tests.tiny import tiny_model


def test_a_checkpoint_is_measured_once(tmp_path, monkeypatch):
    if not CHECKPOINT.exists():
        pytest.skip("no trained checkpoint here")
    records = [
        {"document": f"name[The Rice Boat], food[{food}]", "summary": food}
        for food in ("Thai", "Cod", "Fish")
    ]
    data = tmp_path / "records.json"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    argv = ["own_text", str(CHECKPOINT), str(tmp_path), "--data", str(data), "--variants", "start"]
    monkeypatch.setattr(sys, "argv", [*argv, "--results", str(tmp_path / "results")])
    scope = runpy.run_module("benchmarks.own_text", run_name="__main__")
    row = json.loads((tmp_path / "results" / "start.json").read_text())
    assert len(row["agreement"]) == 5
    assert all(0.3 < share <= 1 for share in row["agreement"])
    assert {found["layers"] for way in row["certified"].values() for found in way.values()} == {6}
    assert 1 < row["exact_drafts_layers_read"] < 6
    assert 1 < row["exact_drafts_tokens_per_block"] <= 7
    assert len(row["static_rougeL"]) == 5
    assert (tmp_path / "results" / "table.md").read_text().count("\n") == 3
    assert (tmp_path / "results" / "agreement.png").stat().st_size > 1000
    monkeypatch.setitem(scope["main"].__globals__, "figures", None)
    scope["main"]()  # finds it there


def test_agreement_counts_tokens_of_all_batches():
    """By full depth's own logits, a text at a time."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(0)
    sources, texts = (
        [torch.randint(2, 97, (1 + number % size,), generator=generator).tolist() for number in range(40)]
        for size in (5, 4)
    )
    agrees, tokens = torch.zeros(3), 0
    for source, text in zip(sources, texts, strict=True):
        labels = torch.tensor([text])
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([source]), labels=labels, output_hidden_states=True)
            chosen = [model.exit_logits(h).argmax(-1) for h in outputs.decoder_hidden_states[1:4]]
        agrees += torch.stack([(own == outputs.logits.argmax(-1)).sum() for own in chosen])
        tokens += len(text)
    assert agreement(model, sources, texts) == pytest.approx((agrees / tokens).tolist())
