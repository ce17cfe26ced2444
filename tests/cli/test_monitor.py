"""A monitor through `generate` and from the command line."""

import json
import sys

import pytest
import torch

import run_monitor
from early_exit import ExitPolicy
from early_exit.calibration import Monitor
from early_exit.models.auditing import Audit
from tests.cli.conftest import call
from tests.cli.test_calibration import cali_flags
from tests.tiny import source_batch, tiny_model
from util.corpus import generate

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
    state.write_text(json.dumps({**found, "fingerprint": "another"}))
    assert monitor(*flags) == 2
    assert "watches another setting" in capsys.readouterr().err
    assert monitor(*flags, "--text_column", "text", "--state", tmp_path / "new.json") == 2
    assert "no column 'text'" in capsys.readouterr().err
