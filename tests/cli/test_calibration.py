"""Calibration through the entry point: the verdict, its files, and what may not be calibrated."""

import errno
import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from early_exit.models.loading import load_model
from tests.cli.conftest import DATA, QUIET, call, eval_flags, train_flags
from tests.cli.test_bad_input import fails_with
from tests.processes import run_in_two
from util import run_folder
from util.files import read_json, write_json

GRID = ["1.0", "0.9", "0.5", "0.3", "0.2", "0.1", "0.05", "0.02", "0.0"]


def cali_flags(model, output, *more):
    return [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--output_dir", str(output),
        "--do_cali", "True", "--predict_with_generate", "--per_device_eval_batch_size", "4",
        "--deploy_scenario", "True", "--use_synchronize", "True", "--max_predict_samples", "8",
        "--max_calibrate_samples", "12", "--use_early_exit", "True", "--exit_conf_type", "softmax",
        "--exit_min_layer", "1", "--calibrate_delta", ".5", "--calibrate_epsilon", "0.05",
        "--consistency_type", "textual", "--thresholds", *GRID, *more,
    ]  # fmt: skip


@pytest.fixture
def checkpoint(model, tmp_path):
    """A copy of the trained model, which calibration may write into."""
    return shutil.copytree(model, tmp_path / "checkpoint")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_verdict_and_its_files(capsys, checkpoint, tmp_path):
    before = contents(checkpoint)
    assert call(*cali_flags(checkpoint, tmp_path / "c", "--calibrate_delta", ".5", ".001")) == 0
    printed = capsys.readouterr().out
    assert printed.index("thresholds in order: 1 0.9 0.5") < printed.index("certified: softmax, λ = ")
    assert "NOT CERTIFIED: full model" in printed
    result = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert contents(checkpoint) == before
    assert result["exit_calibration"]["setting"] == result["deltas"][0]["setting"]
    found, missed = result["deltas"]
    assert found["certified"]
    assert not missed["certified"]
    assert found["n"] == 12
    assert found["held_out"]["n"] == 8
    assert found["held_out"]["low"] <= found["held_out"]["mean"] <= found["held_out"]["high"]
    assert found["mean_loss"] <= found["upper_bound"] <= 0.5
    assert missed["threshold"] is None
    assert missed["smallest_delta"] > 0.001
    assert missed["prompts_needed"] > 12


@pytest.mark.parametrize("saved", [False, True])
def test_generate_uses_what_was_certified_and_warns_outside_of_it(recwarn, checkpoint, tmp_path, saved):
    more = ["--calibrate_delta", ".99", "--save_calibration", str(saved)]
    assert call(*cali_flags(checkpoint, tmp_path / "c", *more)) == 0
    verdict = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert verdict["deltas"][0]["threshold"] < 1
    assert (checkpoint / "calibration.json").exists() == saved
    if saved:
        assert json.loads((checkpoint / "calibration.json").read_text()) == verdict
        model = load_model(str(checkpoint)).eval()
    else:
        assert not hasattr(load_model(str(checkpoint)).config, "exit_calibration")
        model = load_model(str(checkpoint), calibration=tmp_path / "c").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer(["summarize: A fire broke out."], return_tensors="pt")
    recwarn.clear()
    output = model.generate(**inputs, return_dict_in_generate=True)
    assert output.sequences.shape[1] <= 12
    assert (output.exit_layers < 3).any()
    assert not [warning for warning in recwarn if "guarantee" in str(warning.message)]
    for options, difference in (
        ({"do_sample": True}, "do_sample True instead of False"),
        ({"max_length": 9}, "max_length 9 instead of 12"),
        ({"engine_precision": "bfloat16"}, "precision bfloat16"),
    ):
        with pytest.warns(UserWarning, match=difference):
            model.generate(**inputs, **{"max_length": 12} | options)
    with pytest.warns(UserWarning, match=r"beam search \(num_beams=2\): the full model"):
        model.generate(**inputs, max_length=12, num_beams=2)
    with torch.no_grad():
        model.lm_head.weight.add_(0.01 * torch.randn_like(model.lm_head.weight))
    with pytest.warns(UserWarning, match="weights are not those"):
        model.generate(**inputs, max_length=12)
    plain = model.generate(**inputs, max_length=12, exit_policy=None, return_dict_in_generate=True)
    assert "exit_layers" not in plain


def test_copied_columns_are_what_decoding_gives(checkpoint, tmp_path):
    flags = cali_flags(
        checkpoint, tmp_path / "c", "--calibrate_test", "bonferroni", "--calibrate_delta", ".9"
    )
    assert call(*flags) == 0
    full, *columns = read_json(tmp_path / "c" / "loss_table.json.gz")["columns"]
    assert full["losses"] == [0.0] * 12
    assert [column["setting"]["threshold"] for column in columns] == list(map(float, GRID))
    assert columns[0]["losses"] == [0.0] * 12
    assert sum(column["decoded"] for column in columns) < 12 * len(columns)  # some were copied
    assert columns[-1]["layers"] == [1.0] * 12
    # Each threshold by itself: nothing to copy from.
    for column in columns[1:-1]:
        threshold = str(column["setting"]["threshold"])
        alone = tmp_path / threshold
        flags = cali_flags(checkpoint, alone, "--thresholds", threshold, "--calibrate_delta", ".9")
        assert call(*flags) == 0
        _, only = read_json(alone / "loss_table.json.gz")["columns"]
        assert only["decoded"] == 12
        assert {**only, "decoded": 0} == {**column, "decoded": 0}


def test_an_interrupted_table_goes_on(checkpoint, tmp_path):
    flags = cali_flags(checkpoint, tmp_path / "c")
    assert call(*flags) == 0
    file = tmp_path / "c" / "loss_table.json.gz"
    whole = read_json(file)
    verdict = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"][0]
    write_json(file, {**whole, "columns": whole["columns"][:3]})
    assert call(*flags) == 0
    again = read_json(file)["columns"]
    for column, expected in zip(again, whole["columns"], strict=True):
        assert column["losses"] == expected["losses"]
    found = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"][0]
    assert {**found, "speedup": 0} == {**verdict, "speedup": 0}


def test_two_processes_give_the_table_of_one(checkpoint, python, tmp_path):
    """Against texts of a model of its own, too."""
    assert call(*cali_flags(checkpoint, tmp_path / "one")) == 0
    run_in_two(python, *cali_flags(checkpoint, tmp_path / "two", "--calibrate_reference", str(checkpoint)))
    one, two = (read_json(tmp_path / name / "loss_table.json.gz")["columns"] for name in ("one", "two"))
    assert one == two


def test_further_knobs(capsys, checkpoint, tmp_path):
    knobs = ["--calibrate_grid", "engine_precision=float32,int8", "exit_min_layer=1,2"]
    flags = cali_flags(checkpoint, tmp_path / "c", "--max_calibrate_samples", "40", *knobs)
    assert call(*flags) == 0
    printed = capsys.readouterr().out
    assert "a chain for each choice of knobs" in printed
    found = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"][0]
    assert found["certified"]
    assert found["n"] == 40
    speeds = read_json(tmp_path / "c" / "loss_table.json.gz")["speeds"]
    assert len(speeds) == 4  # of each chain its cheapest setting
    fastest = max(speeds, key=lambda each: each["tokens_per_second"])
    assert found["setting"] == fastest["setting"]
    assert call(*[*flags, "--output_dir", str(tmp_path / "p"), "--calibrate_test", "pareto"]) == 0
    found = json.loads((tmp_path / "p" / "calibration.json").read_text())["deltas"][0]
    assert (found["n"], found["test"]) == (20, "pareto")
    assert found["step"] <= found["settings"] <= 4 * len(GRID)
    assert found["engine_precision"] in ("float32", "int8")
    assert found["exit_min_layer"] in (1, 2)


def test_static_layers_compete_with_exits_under_one_guarantee(capsys, checkpoint, tmp_path):
    """A layer loses what exits lose there that any confidence suffices for; what is certified is deployed."""
    more = [
        "--calibrate_delta",
        ".99",
        "--consistency_type",
        "risk",
        "--calibrate_grid",
        "static_exit_layer=1,2",
    ]
    more += ["--thresholds", "0.05", "--save_calibration", "True"]
    assert call(*cali_flags(checkpoint, tmp_path / "c", *more)) == 0
    verdict = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert verdict["deltas"][0]["setting"]["static_layer"] in (1, 2)
    assert load_model(str(checkpoint)).config.exit_calibration["setting"] == verdict["deltas"][0]["setting"]
    columns = {
        (each["setting"]["measure"], each["setting"]["static_layer"]): each
        for each in read_json(tmp_path / "c" / "loss_table.json.gz")["columns"]
    }
    assert columns.keys() == {(None, None), (None, 1), (None, 2), ("softmax", 2)}
    assert set(columns[None, 2]["layers"]) == {2.0}
    assert min(columns["softmax", 2]["layers"]) < 2 >= max(columns["softmax", 2]["layers"])
    capsys.readouterr()
    alone = cali_flags(checkpoint, tmp_path / "alone", *more, "--static_exit_layer", "2", "--thresholds", "1")
    place = alone.index("--calibrate_grid")
    assert call(*alone[:place], *alone[place + 2 :]) == 0
    assert "certified: every token after layer 2: " in capsys.readouterr().out
    any_confidence = cali_flags(
        checkpoint, tmp_path / "any", *more, "--thresholds", "0", "--exit_min_layer", "2"
    )
    place = any_confidence.index("--calibrate_grid")
    assert call(*any_confidence[:place], *any_confidence[place + 2 :], "--save_calibration", "False") == 0
    _, left = read_json(tmp_path / "any" / "loss_table.json.gz")["columns"]
    assert (left["setting"]["static_layer"], left["layers"]) == (None, columns[None, 2]["layers"])
    assert left["losses"] == columns[None, 2]["losses"]
    model = load_model(str(checkpoint)).eval()
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 1]])}
    assert set(model.generate(**inputs, return_dict_in_generate=True).exit_layers[0].tolist()) == {2}


def test_exact_drafts_are_not_decoded_and_not_tested(capsys, checkpoint, tmp_path):
    knobs = ["--calibrate_grid", "verify=none,exact", "engine_precision=float32,int8", "max_draft=3"]
    more = ["--max_calibrate_samples", "40", "--calibrate_delta", ".5", ".001", "--thresholds", "0.3", "0.05"]
    assert call(*cali_flags(checkpoint, tmp_path / "c", *more, *knobs)) == 0
    columns = read_json(tmp_path / "c" / "loss_table.json.gz")["columns"]
    exact = [column for column in columns if column["setting"]["verify"] == "exact"]
    float32, int8 = (
        [each for each in exact if each["setting"]["precision"] == p] for p in ("float32", "int8")
    )
    assert [column["decoded"] for column in float32] == [16, 16]
    assert [column["decoded"] for column in int8] == [56, 16]  # full depth in int8, once
    assert all(column["losses"] == [0.0] * 40 for column in float32)
    assert int8[0]["losses"] == int8[1]["losses"]
    assert all(1 <= column["layers"][0] <= 6 for column in exact)
    some, strict = json.loads((tmp_path / "c" / "calibration.json").read_text())["deltas"]
    # Nothing else passes at δ = 0.001.
    assert strict["certified"]
    assert strict["by_construction"]
    assert strict["setting"]["verify"] == "exact"
    assert strict["held_out"]["max"] == 0
    printed = capsys.readouterr().out
    assert "exact drafts (to full depth in float32), at most 3 a block: the full model's text" in printed
    assert some["certified"]


def test_a_later_calibration_without_a_certificate_takes_the_earlier_one_back(checkpoint, tmp_path):
    for delta, there in ((".99", True), (".001", False)):
        more = ["--calibrate_delta", delta, "--save_calibration", "True"]
        assert call(*cali_flags(checkpoint, tmp_path / delta, *more)) == 0
        assert hasattr(load_model(str(checkpoint)).config, "exit_calibration") == there
    with pytest.warns(UserWarning, match="certifies no setting"):
        model = load_model(str(checkpoint), calibration=tmp_path / ".001")
    assert model.config.exit_calibration is None
    with pytest.raises(OSError, match=r"calibration\.json"):
        load_model(str(checkpoint), calibration=tmp_path / "nowhere")


def test_a_checkpoint_that_cannot_be_written_into_is_named_first(capsys, monkeypatch, checkpoint, tmp_path):
    flags = cali_flags("google-t5/t5-small", tmp_path / "hub", "--save_calibration", "True")
    fails_with(capsys, flags, "writes into a checkpoint's folder, and 'google-t5/t5-small' is none")

    def refuse(dir):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(run_folder.tempfile, "TemporaryFile", refuse)  # tests may run as root
    flags = cali_flags(checkpoint, tmp_path / "read-only", "--save_calibration", "True")
    fails_with(capsys, flags, f"nothing can be written into {checkpoint} (Read-only file system)")
    flags = cali_flags(checkpoint, tmp_path / "new" / "folder")
    fails_with(capsys, flags, f"--output_dir: nothing can be written into {tmp_path}")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--calibrate_delta", "1.5"], "--calibrate_delta 1.5 is outside (0, 1)"),
        (["--calibrate_epsilon", "0"], "--calibrate_epsilon 0.0 is outside (0, 1)"),
        (["--thresholds", "0.5", "1.5"], "threshold 1.5 is outside [0, 1]"),
        (["--thresholds", "0.5", "0.5"], "threshold 0.5 is given more than once"),
        (["--max_calibrate_samples", "1"], "--max_calibrate_samples 1 is too small"),
        (["--max_calibrate_samples", "100000"], "holds"),
        (["--consistency_type", "semantic"], "unknown --consistency_type 'semantic'; known: textual, risk"),
        (["--calibrate_loss", "exact_match"], "unknown --calibrate_loss 'exact_match'; known: rouge, token_"),
        (["--calibrate_bound", "markov"], "unknown --calibrate_bound 'markov'; known: wsr"),
        (["--calibrate_bound", "binomial"], "--calibrate_loss mismatch"),
        (["--calibrate_test", "pareto"], "unknown --calibrate_test 'pareto'; known: fixed_sequence"),
        (["--calibrate_grid", "depth=1"], "unknown knob 'depth'"),
        (["--calibrate_grid", "static_exit_layer=none,9"], "static exit layer 9 is outside 1 to 3"),
        (
            ["--static_exit_layer", "1", "2"],
            "not 1 2; several are a knob: --calibrate_grid static_exit_layer=",
        ),
        (["--static_exit_layer", "last"], "takes one --static_exit_layer, a number, not last"),
        (["--static_exit_layer", "1", "--calibrate_grid", "verify=none,exact"], "not by both"),
        (["--calibrate_grid", "static_exit_layer=1", "verify=exact"], "static_exit_layer changes no setting"),
        (["--exit_conf_type", "sofmax"], "--exit_conf_type: unknown confidence measure 'sofmax'"),
        (["--exit_conf_type", "transformer_MLP_x"], "--exit_conf_type: "),
        (["--top_propagation", "5", "9"], "several K are a knob: --calibrate_grid top_propagation="),
        (["--shortlist", "5", "9"], "several shortlists are a knob: --calibrate_grid shortlist="),
        (
            ["--static_exit_layer", "1", "--calibrate_grid", "static_exit_layer=none,2"],
            "--static_exit_layer 1 is not among the values",
        ),
        (["--exit_conf_type", "oracle"], "oracle looks at full depth"),
        (["--do_eval"], "--do_cali calibrates only"),
    ],
)
def test_bad_flags(capsys, model, tmp_path, more, message):
    fails_with(capsys, cali_flags(model, tmp_path / "output", *more), message)
    assert not (tmp_path / "output").exists()


def test_calibration_flags_without_calibration(capsys, model, tmp_path):
    fails_with(capsys, eval_flags(model, tmp_path / "o", "--thresholds", "0.5"), "need --do_cali True")
    flags = eval_flags(model, tmp_path / "o", "--save_calibration", "True")
    fails_with(capsys, flags, "--save_calibration needs --do_cali True")


def test_documents_that_were_trained_on_are_refused(capsys, model, tmp_path):
    hashes = (model / "training_documents.txt").read_text().split()
    assert len(hashes) == 64
    from util.corpus import generate

    rows = generate("train", 64)[20:60]
    file = tmp_path / "seen.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    flags = cali_flags(model, tmp_path / "output", "--validation_file", str(file))
    place = flags.index("--dataset_name")
    del flags[place : place + 2]
    fails_with(capsys, flags, "12 of the calibration documents are among those that the model was trained on")


def test_what_is_trained_from_a_calibrated_checkpoint_has_no_certificate(model, tmp_path):
    shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("checkpoint-*"))
    more = ("--calibrate_delta", "0.9", "--thresholds", "0.9", "--save_calibration", "True")
    assert call(*cali_flags(tmp_path / "m", tmp_path / "c", *more)) == 0
    assert json.loads((tmp_path / "m" / "config.json").read_text())["exit_calibration"] is not None
    flags = train_flags(tmp_path / "o", "--model_name_or_path", str(tmp_path / "m"))
    place = flags.index("--model_shape")
    del flags[place : place + 2]
    del flags[(place := flags.index("--tokenizer_vocab_size")) : place + 2]
    assert call(*flags) == 0
    assert json.loads((tmp_path / "o" / "config.json").read_text()).get("exit_calibration") is None
