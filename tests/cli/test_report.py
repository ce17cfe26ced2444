"""Runs leave the texts of their first examples, as `generate` writes them, and a report."""

import pytest
from transformers import AutoTokenizer

from early_exit import ExitPolicy, load_model
from tests.cli.conftest import call, eval_flags
from tests.cli.test_calibration import cali_flags
from util.files import read_json
from util.run_folder import TEXTS_FILE


def written(model, document: str, policy: ExitPolicy):
    """Text and exit layers by `generate`."""
    loaded, tokenizer = load_model(str(model)).eval(), AutoTokenizer.from_pretrained(model)
    inputs = tokenizer(document, return_tensors="pt")
    output = loaded.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, exit_policy=policy, max_length=12,
        return_dict_in_generate=True,
    )  # fmt: skip
    text = tokenizer.decode(output.sequences[0], skip_special_tokens=True)
    return text, output.exit_layers[0].tolist()


def test_a_sweep_keeps_its_texts(model, tmp_path):
    flags = ("--static_exit_layer", "1", "2", "--verify", "exact", "--max_draft", "2", "--deploy_scenario")
    assert call(*eval_flags(model, tmp_path / "out", *flags)) == 0
    content = read_json(tmp_path / "out" / TEXTS_FILE)
    by_name = {each["setting"]: each for each in content["settings"]}
    policies = {
        "static 1 exact ×2": ExitPolicy(static_layer=1, verify="exact", max_draft=2),
        "static 2 exact ×2": ExitPolicy(static_layer=2, verify="exact", max_draft=2),
        "full depth": ExitPolicy(),
    }
    assert by_name.keys() == policies.keys()
    assert [each["full_depth"] for each in by_name.values()] == [False, False, True]
    assert len(content["prompts"]) == 3
    for name, policy in policies.items():
        for prompt, text in zip(content["prompts"], by_name[name]["texts"], strict=True):
            assert ("".join(text["pieces"]), text["exit_layers"]) == written(
                model, prompt["document"], policy
            )
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "static 1 exact" in report
    assert report.count("data:image/svg+xml;base64,") == 3


def test_a_sweep_that_goes_on_keeps_them_too(model, tmp_path):
    for layers in (("1", "3"), ("1", "2", "3")):
        assert call(*eval_flags(model, tmp_path / "out", "--static_exit_layer", *layers)) == 0
    settings = read_json(tmp_path / "out" / TEXTS_FILE)["settings"]
    assert [each["setting"] for each in settings] == ["static 1", "static 3", "static 2"]


def test_a_calibration_keeps_texts_and_losses_of_its_check(model, tmp_path):
    flags = cali_flags(model, tmp_path / "out", "--calibrate_delta", "0.95", "--thresholds", "1", "0.0")
    assert call(*flags) == 0
    calibration = read_json(tmp_path / "out" / "calibration.json")
    content = read_json(tmp_path / "out" / TEXTS_FILE)
    assert content["settings"][0]["full_depth"]
    for entry, each in zip(calibration["deltas"], content["settings"][1:], strict=False):
        mean = sum(each["losses"]) / len(each["losses"])
        assert entry["held_out"]["mean"] == pytest.approx(mean)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "certified" in report
    assert report.count("data:image/svg+xml;base64,") == 4
