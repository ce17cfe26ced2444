"""A monitor through `generate` and from the command line."""

import json
import sys

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig, MaxLengthCriteria, StoppingCriteriaList

import run_monitor
from early_exit import ExitPolicy
from early_exit.calibration import Monitor
from early_exit.models.auditing import Audit
from early_exit.models.loading import load_model
from tests.cli.conftest import call
from tests.cli.test_calibration import cali_flags
from tests.tiny import source_batch, tiny_model
from util.corpus import generate
from util.dissimilarity import TEXTUAL

EXITS = ExitPolicy(measure="softmax", threshold=0.0)


def mismatch(early, full):
    return float(early != full)


@pytest.mark.parametrize("policy", [ExitPolicy(), EXITS])
def test_an_audit_compares_with_full_depth_and_changes_no_text(policy):
    model, inputs, seen = tiny_model(), source_batch(4, 9), []

    def loss(early, full):
        seen.append((early, full))
        return mismatch(early, full)

    audit = Audit(Monitor(0.1), loss, share=1.0)
    options = {**inputs, "max_new_tokens": 6, "exit_policy": policy}
    texts = model.generate(**options, audit=audit)
    assert torch.equal(texts, model.generate(**options))
    assert audit.monitor.audits == 4
    plain = model.generate(**{**options, "exit_policy": ExitPolicy()})
    for row, (early, full) in enumerate(seen):
        assert early == texts[row, 1 : 1 + len(early)].tolist()
        assert full == plain[row, 1 : 1 + len(full)].tolist()
    assert (audit.monitor.total > 0) == (policy is EXITS)


@pytest.mark.parametrize("more", ["ends", "config", "prefix", "length"])
def test_an_audit_compares_texts_whatever_ends_them(more):
    """Full depth with itself: no loss, whatever part of the batch is drawn."""
    model, inputs = tiny_model(), source_batch(6, 9)
    plain = model.generate(**inputs, max_new_tokens=9, exit_policy=ExitPolicy())
    ends = plain[:3, 3].tolist()
    options = {
        "ends": {"eos_token_id": ends},
        "config": {
            "generation_config": GenerationConfig(eos_token_id=ends, decoder_start_token_id=0, pad_token_id=0)
        },
        "prefix": {
            "decoder_input_ids": torch.tensor([[0, 1, place] for place in range(2, 8)]),
            "eos_token_id": ends,
        },
        "length": {"stopping_criteria": StoppingCriteriaList([MaxLengthCriteria(5)])},
    }[more]
    audit, seen = (
        Audit(Monitor(0.1), lambda early, full: seen.append(early) or mismatch(early, full), 0.5, seed=3),
        [],
    )
    for _ in range(3):
        texts = model.generate(
            **inputs, **({"max_new_tokens": 9} | options), exit_policy=ExitPolicy(), audit=audit
        )
    assert 3 < audit.monitor.audits < 18
    assert audit.monitor.total == 0
    start = 3 if more == "prefix" else 1
    assert all(any(text == row[start : start + len(text)] for row in texts.tolist()) for text in seen)
    assert all(token not in ends for text in seen for token in text) or more == "length"


def test_a_share_is_audited_and_alarm_falls_back():
    model, inputs, saved = tiny_model(), source_batch(8, 9), []
    options = {**inputs, "max_new_tokens": 6, "exit_policy": EXITS}
    audit = Audit(Monitor(0.9), lambda early, full: 0.0, share=0.3, seed=0)
    for _ in range(12):
        model.generate(**options, audit=audit)
    assert 10 < audit.monitor.audits < 45  # of 96
    audit = Audit(Monitor(0.1), mismatch, share=0.5, fall_back=True, save=saved.append, seed=0)
    for _ in range(12):
        texts = model.generate(**options, audit=audit)
    assert audit.monitor.alarmed
    assert saved[-1] is audit.monitor
    assert torch.equal(texts, model.generate(**{**options, "exit_policy": ExitPolicy()}))


def test_what_cannot_be_audited_is_refused():
    model, audit = tiny_model(), Audit(Monitor(0.1), mismatch)
    with pytest.raises(ValueError, match="no exit policy"):
        model.generate(**source_batch(1, 5), exit_policy=None, audit=audit)
    with pytest.raises(ValueError, match="do_sample=False"):
        model.generate(**source_batch(1, 5), exit_policy=EXITS, do_sample=True, audit=audit)
    with pytest.raises(ValueError, match=r"allowed: \(0, 1\]"):
        Audit(Monitor(0.1), mismatch, share=0.0)


def monitor(*flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run_monitor.py", *map(str, flags)])
        return run_monitor.main()


def test_from_the_command_line(capsys, model, tmp_path):
    assert call(*cali_flags(model, tmp_path / "c", "--calibrate_delta", ".9")) == 0
    file, state = tmp_path / "today.json", tmp_path / "monitor.json"
    file.write_text("\n".join(json.dumps({"document": row["document"]}) for row in generate("test", 9)))
    flags = ["--model_name_or_path", model, "--file", file, "--state", state, "--audit_share", "1"]
    assert monitor(*flags) == 2
    assert "nothing is certified here" in capsys.readouterr().err
    flags += ["--calibration", tmp_path / "c", "--output", tmp_path / "texts.txt"]
    assert monitor(*flags) == 0
    assert "9 audits" in capsys.readouterr().out
    assert len((tmp_path / "texts.txt").read_text().splitlines()) == 9
    assert monitor(*flags) == 0
    found = json.loads(state.read_text())
    assert found["audits"] == 18
    assert state.with_suffix(".png").exists()
    assert monitor(*flags, "--epsilon", "0.2") == 2
    assert "goes on with --epsilon 0.05, not 0.2" in capsys.readouterr().err
    state.write_text(json.dumps({**found, "epsilon": 0.2}))
    assert monitor(*flags) == 0  # with its own
    assert json.loads(state.read_text())["epsilon"] == 0.2
    state.write_text(json.dumps({**found, "fingerprint": "another"}))
    assert monitor(*flags) == 2
    assert "watches another setting" in capsys.readouterr().err
    assert monitor(*flags, "--text_column", "text", "--state", tmp_path / "new.json") == 2
    assert "no column 'text'" in capsys.readouterr().err


@pytest.mark.parametrize("guarantee", ["share", "cvar"])
def test_large_losses_are_watched_where_these_were_promised(guarantee, model, tmp_path):
    flags = "--guarantee", guarantee, "--loss_above", ".2", "--calibrate_delta", ".95", "--worst_share", "1"
    assert call(*cali_flags(model, tmp_path / "c", *flags)) == 0
    rows = generate("test", 9)
    file, state = tmp_path / "today.json", tmp_path / "monitor.json"
    file.write_text("\n".join(json.dumps({"document": row["document"]}) for row in rows))
    flags = ["--model_name_or_path", model, "--file", file, "--state", state, "--audit_share", "1"]
    assert monitor(*flags, "--calibration", tmp_path / "c") == 0

    certified, tokenizer = (
        load_model(str(model), calibration=tmp_path / "c"),
        AutoTokenizer.from_pretrained(model),
    )
    total = 0.0
    for row in rows:
        inputs = tokenizer(
            "summarize: " + row["document"], return_tensors="pt", truncation=True, max_length=512
        )
        early, full = (
            tokenizer.decode(certified.eval().generate(**inputs, **options)[0], skip_special_tokens=True)
            for options in ({}, {"exit_policy": ExitPolicy(), "max_length": 12})
        )
        loss = TEXTUAL["rouge"](early, full)
        total += loss > 0.2 if guarantee == "share" else max(0.0, loss - 0.2) / 0.8
    found = json.loads(state.read_text())
    assert found["total"] == pytest.approx(total)
    assert total > 0
    assert found["delta"] == pytest.approx(0.95 if guarantee == "share" else 0.75 / 0.8)


@pytest.mark.parametrize("flags", [("--guarantee", "expectation"), ("--consistency_type", "risk")])
def test_a_promise_that_texts_do_not_show_is_not_watched(capsys, flags, model, tmp_path):
    assert call(*cali_flags(model, tmp_path / "c", *flags, "--calibrate_delta", ".99")) == 0
    file = tmp_path / "today.json"
    file.write_text(json.dumps({"document": "A fire."}))
    options = "--model_name_or_path", model, "--file", file, "--state", tmp_path / "s.json"
    assert monitor(*options, "--calibration", tmp_path / "c") == 2
    assert "watches a textual loss" in capsys.readouterr().err
