"""What a calibration must not do: certify by trying again, go on with another pipeline's losses, deploy what
was not promised, or call full depth a certificate."""

import json
import shutil

import pytest

from early_exit.models.loading import load_model
from tests.cli.conftest import call
from tests.cli.test_bad_input import fails_with
from tests.cli.test_calibration import cali_flags
from util.corpus import generate
from util.files import read_json, write_json
from util.ledger import LEDGER_FILE


@pytest.fixture
def place(model, tmp_path):
    """A folder with a copy of the trained model, and 30 documents to calibrate with."""
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*"))
    rows = generate("validation", 40)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "rows.json"
    file.write_text("\n".join(json.dumps({**row, "kind": str(place % 2)}) for place, row in enumerate(rows)))
    return tmp_path


def run(place, name, *more, rows="12"):
    flags = cali_flags(place / "model", place / name, "--validation_file", str(place / "data" / "rows.json"))
    at = flags.index("--dataset_name")
    del flags[at : at + 2]
    assert call(*flags, "--max_calibrate_samples", rows, "--max_predict_samples", "4", *more) == 0
    return json.loads((place / name / "calibration.json").read_text())


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_another_seed_over_the_same_prompts_is_the_same_attempt(place):
    """Losses, their order and the verdict follow from the documents; another grid or δ is another attempt."""
    few = ("--thresholds", "0.5", "0.1")
    one, two = (run(place, f"s{seed}", "--seed", seed, *few, rows="40") for seed in ("1", "2"))
    assert one["deltas"][0]["p_value"] == two["deltas"][0]["p_value"]
    assert (one["attempt"], two["attempt"]["number"]) == (two["attempt"], 1)
    third = run(place, "third", "--thresholds", "0.4", "0.1", "--seed", "3", rows="40")
    assert third["attempt"] == {"number": 2, "epsilon": 0.05, "together": 0.1}
    other = run(place, "other", "--thresholds", "0.3", "--seed", "5", "--calibrate_epsilon_spending", "True")
    assert other["attempt"]["number"] == 3  # of other prompts, some of which it shares
    assert other["deltas"][0]["epsilon"] == pytest.approx(0.05 * 6 / (3 * 3.14159265) ** 2)
    larger = run(place, "larger", "--seed", "1", *few, "--calibrate_epsilon", "0.2", rows="40")
    assert (
        larger["attempt"]["number"] == 4
    )  # a larger ε for the first one's question is a question of its own
    for folder in (place, place / "data"):
        started = [line for line in lines(folder / LEDGER_FILE) if "documents" in line]
        finished = [line for line in lines(folder / LEDGER_FILE) if "outcome" in line]
        assert (len(started), len(finished)) == (5, 5)
        assert started[0]["grid"][0]["threshold"] == 0.5
        assert finished[0]["outcome"][0]["delta"] == 0.5


def test_a_loss_table_does_not_outlive_its_pipeline(capsys, place):
    """An interrupted run: the generation config, the tokenizer or a document's text is edited, and it goes
    on."""
    run(place, "o")
    table = read_json(place / "o" / "loss_table.json.gz")
    state = json.loads((place / "o" / "sweep_run.json").read_text())

    def interrupted():
        (place / "o" / "sweep_run.json").write_text(json.dumps({**state, "finished": False}))

    def refused(why):
        flags = cali_flags(
            place / "model", place / "o", "--validation_file", str(place / "data" / "rows.json")
        )
        at = flags.index("--dataset_name")
        del flags[at : at + 2]
        fails_with(capsys, [*flags, "--max_predict_samples", "4"], why)

    interrupted()
    config = place / "model" / "generation_config.json"
    before = config.read_text()
    config.write_text(json.dumps({**json.loads(before), "no_repeat_ngram_size": 1}))
    refused("with other settings: fingerprint, generation")
    config.write_text(before)
    file = place / "model" / "config.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "layer_norm_epsilon": 0.01}))
    refused("with other settings: fingerprint")
    file.write_text(before)
    interrupted()
    run(place, "o", "--per_device_eval_batch_size", "2")  # which no text depends on
    # A table of another pipeline that lies in the folder is not read.
    interrupted()
    for column in table["columns"]:
        column["losses"] = [1.0] * 12
    write_json(place / "o" / "loss_table.json.gz", {**table, "fingerprint": "another"})
    run(place, "o")
    assert read_json(place / "o" / "loss_table.json.gz")["columns"][0]["losses"] == [0.0] * 12


def test_the_delta_to_deploy_is_named_in_advance(place):
    result = run(place, "first", "--calibrate_delta", ".001", ".99")
    assert [each["certified"] for each in result["deltas"]] == [False, True]
    assert result["exit_calibration"] is None
    result = run(place, "named", "--calibrate_delta", ".001", ".99", "--deploy_delta", ".99")
    deployed = result["exit_calibration"]
    assert (deployed["delta"], deployed["epsilon"], deployed["n"]) == (0.99, 0.05, 12)
    assert deployed["fingerprint"] == result["fingerprint"]
    assert deployed["loss"] == "textual rouge"
    assert "mean textual loss" in deployed["guarantee"]


@pytest.mark.parametrize("more", [["--thresholds", "1.0"], ["--exit_min_layer", "100"]])
def test_full_depth_is_no_certificate(capsys, place, more):
    result = run(place, "deep", *more, "--calibrate_delta", ".9", "--save_calibration", "True")
    found = result["deltas"][0]
    assert (found["certified"], found["only_full_depth"], found["threshold"]) == (False, True, None)
    assert (found["smallest_delta"], found["prompts_needed"]) == (None, None)
    assert result["exit_calibration"] is None
    assert not hasattr(load_model(str(place / "model")).config, "exit_calibration")
    assert "NOT CERTIFIED: only full depth" in capsys.readouterr().out


def test_both_numbers_are_about_the_first_setting_that_exits(place):
    """Few prompts, a small δ: λ = 1 fails as well, and the table goes on to the first that exits."""
    more = ("--thresholds", "1.0", "0.12", "--calibrate_delta", ".02", "--calibrate_loss", "mismatch")
    found = run(place, "small", *more)["deltas"][0]
    columns = read_json(place / "small" / "loss_table.json.gz")["columns"]
    assert [column["setting"]["threshold"] for column in columns[1:]] == [1.0, 0.12]
    assert found["setting"]["threshold"] == 0.12
    assert found["mean_loss"] == pytest.approx(sum(columns[2]["losses"]) / 12)
    assert found["smallest_delta"] > max(0.2, found["mean_loss"])


def test_a_measure_is_a_knob_and_chains_share_epsilon(place):
    knobs = ("--calibrate_grid", "exit_conf_type=softmax,entropy,hidden_state", "--calibrate_delta", ".99")
    result = run(place, "knobs", "--thresholds", "0.9", "0.1", *knobs)
    found = result["deltas"][0]
    assert (found["n"], found["test"]) == (12, "chains")
    assert found["measure"] in ("softmax", "entropy", "hidden_state")
    assert result["exit_calibration"]["setting"]["measure"] == found["measure"]


PROMISES = {
    "share": (["--loss_above", "0.9"], "share of prompts with a textual loss (1 − ROUGE-L) above 0.9 ≤ 0.95"),
    "cvar": (
        ["--worst_share", "0.9"],
        "mean textual loss (1 − ROUGE-L) of the worst 90% of prompts (CVaR) ≤ 0.95",
    ),
    "expectation": ([], "expected textual loss (1 − ROUGE-L) ≤ 0.95 on average over calibration draws"),
    "mean": (["--group_column", "kind"], "mean textual loss (1 − ROUGE-L) in each of the groups 0, 1 ≤ 0.95"),
}


@pytest.mark.parametrize("name", PROMISES)
def test_other_promises_say_what_they_promise(capsys, place, name):
    more, words = PROMISES[name]
    result = run(place, name, "--guarantee", name, "--calibrate_delta", ".95", *more, rows="30")
    assert words in capsys.readouterr().out
    assert result["deltas"][0]["guarantee"] == name
    assert result["deltas"][0]["n"] == 30
    if name == "mean":
        assert sum(result["deltas"][0]["groups"].values()) == 30
    if result["exit_calibration"] is not None:
        assert words.startswith(result["exit_calibration"]["guarantee"].split(" ≤")[0])


def test_several_summaries_of_a_document_are_its_references(place):
    file = place / "data" / "rows.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(json.dumps(row) for row in [*rows, {**rows[0], "summary": "another"}]))
    result = run(place, "risk", "--consistency_type", "risk", "--calibrate_delta", ".9", rows="36")
    assert result["deltas"][0]["n"] == 36
    assert result["deltas"][0]["held_out"]["n"] == 4  # and the document once


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--deploy_delta", "0.3"], "--deploy_delta 0.3 is none of --calibrate_delta 0.5"),
        (["--calibrate_test", "chains"], "unknown --calibrate_test 'chains'; known: fixed_sequence"),
        (
            ["--calibrate_grid", "exit_min_layer=1,2", "--calibrate_test", "bonferroni"],
            "unknown --calibrate_test 'bonferroni'; known: chains, pareto",
        ),
        (["--calibrate_grid", "exit_min_layer=2,3"], "--exit_min_layer 1 is not among"),
        (
            ["--calibrate_grid", "engine_precision=int8", "--engine_precision", "float32"],
            "--engine_precision float32 is not among",
        ),
        (["--calibrate_grid", "exit_conf_type=oracle,softmax"], "oracle looks at full depth"),
        (
            [
                "--calibrate_grid",
                "exit_min_layer=1,2",
                "--calibrate_test",
                "pareto",
                "--max_calibrate_samples",
                "3",
            ],
            "too small for Pareto testing",
        ),
        (["--guarantee", "share"], "needs the loss above which"),
        (["--guarantee", "median"], "unknown guarantee 'median'; known: mean, share"),
        (["--guarantee", "cvar", "--loss_above", "0.6"], "allowed: below δ"),
        (["--loss_above", "0.6"], "counts no losses above"),
        (
            ["--guarantee", "expectation", "--calibrate_test", "bonferroni"],
            "does not go with --calibrate_test",
        ),
        (["--group_column", "kind"], "--group_column 'kind': the embedded corpus has the columns"),
    ],
)
def test_flags_that_promise_nothing_are_refused(capsys, model, tmp_path, more, message):
    fails_with(capsys, cali_flags(model, tmp_path / "output", *more), message)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("prompts", ["2", "3"])
def test_two_prompts_and_a_grid(place, prompts):
    more = ("--calibrate_grid", "exit_min_layer=1,2", "--thresholds", "0.9", "0.1")
    assert run(place, prompts, *more, rows=prompts)["deltas"][0]["n"] == int(prompts)


def test_a_sequential_test_reads_no_more_prompts_than_it_needs(capsys, place):
    more = ("--calibrate_test", "sequential", "--calibrate_delta", ".9", "--thresholds", "1.0", "0.9", "0.1")
    result = run(place, "one", *more, rows="30")
    found = result["deltas"][0]
    losses = json.loads((place / "one" / "sequential.json").read_text())["losses"]
    assert found["certified"]
    assert found["threshold"] == 0.1
    assert found["n"] < 30
    assert losses[0] == []  # full depth, which needs no test
    assert found["n"] <= len(losses[1]) < 30
    assert f"n = {found['n']}" in capsys.readouterr().out
    state = json.loads((place / "one" / "sweep_run.json").read_text())
    (place / "one" / "sweep_run.json").write_text(json.dumps({**state, "finished": False}))
    again = run(place, "one", *more, "--per_device_eval_batch_size", "3", rows="30")
    assert {**again["deltas"][0], "speedup": 0} == {**found, "speedup": 0}
    flags = cali_flags(place / "model", place / "two", *more, "--calibrate_bound", "hoeffding")
    fails_with(capsys, flags, "--calibrate_test sequential bets on its own")


def test_losses_of_one_kind_are_not_tested_as_another(place):
    """The same prompts and settings, overwritten: what a sequential test has kept is of another loss."""
    more = ("--calibrate_test", "sequential", "--calibrate_delta", ".9", "--thresholds", "0.1")
    run(place, "o", *more, rows="30")
    run(place, "o", *more, "--overwrite_output_dir", "--calibrate_loss", "mismatch", rows="30")
    (losses,) = json.loads((place / "o" / "sequential.json").read_text())["losses"]
    assert set(losses) <= {0.0, 1.0}
    assert any(losses)


def test_a_verdict_in_use_is_kept_beside_that_of_another_attempt(place):
    asked = ("--calibrate_delta", ".9", "--thresholds", "0.9")
    first, again = run(place, "o", *asked), run(place, "o", *asked)
    assert again["attempt_id"] == first["attempt_id"]
    kept = place / "o" / f"calibration-{first['attempt_id'][:8]}.json"
    assert not kept.exists()
    assert run(place, "o", "--calibrate_delta", ".001", "--thresholds", "0.9")["exit_calibration"] is None
    assert read_json(kept) == again
    assert again["exit_calibration"] is not None


@pytest.mark.parametrize("test", ["chains", "pareto"])
def test_a_group_too_small_to_test_is_named_before_anything_is_written(capsys, place, test):
    file = place / "data" / "rows.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "\n".join(
            json.dumps({**row, "kind": "rare" if place == 3 else "usual"}) for place, row in enumerate(rows)
        )
    )
    flags = cali_flags(place / "model", place / "o", "--validation_file", str(file), "--group_column", "kind")
    at = flags.index("--dataset_name")
    del flags[at : at + 2]
    more = [
        "--calibrate_grid",
        "exit_min_layer=1,2",
        "--calibrate_test",
        test,
        "--max_calibrate_samples",
        "40",
    ]
    least = 4 if test == "pareto" else 2
    fails_with(
        capsys, [*flags, *more], f"--group_column: 1 prompts of group 'rare'; at least {least} are needed"
    )
    assert not (place / "o").exists()
