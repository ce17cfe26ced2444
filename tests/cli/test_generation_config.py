"""The generation config of a checkpoint: what a run cannot decode with is refused before anything is done,
and the rest is part of what is certified."""

import json
import shutil

import pytest

from tests.cli.conftest import call, eval_flags, train_flags
from tests.cli.test_adapt_threshold import SHALLOW
from tests.cli.test_bad_input import fails_with
from tests.cli.test_calibration import cali_flags

EXITS = ["--static_exit_layer", "1"]


@pytest.fixture
def checkpoint(model, tmp_path):
    """Makes copies of the trained model with more in their generation config."""

    def make(**values):
        folder = tmp_path / f"model {len(list(tmp_path.iterdir()))}"
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
        config = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps(config | values))
        return folder

    return make


OTHER_LOOPS = {
    "num_beams": 4,
    "do_sample": True,
    "penalty_alpha": 0.6,
    "prompt_lookup_num_tokens": 3,
    "dola_layers": "low",
    "guidance_scale": 2.0,
    "token_healing": True,
}


@pytest.mark.parametrize("name", OTHER_LOOPS)
def test_what_exits_do_not_serve_is_refused_before_anything_runs(capsys, checkpoint, tmp_path, name):
    folder = checkpoint(**{name: OTHER_LOOPS[name]})
    fails_with(capsys, cali_flags(folder, tmp_path / "o"), name)
    fails_with(capsys, eval_flags(folder, tmp_path / "o", *EXITS), name)
    flags = train_flags(tmp_path / "o", "--model_name_or_path", str(folder), "--do_eval", *EXITS)
    place = flags.index("--model_shape")
    del flags[place : place + 2]
    fails_with(capsys, [*flags, "--predict_with_generate"], name)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_time": 60.0}, "max_time"),
        ({"stop_strings": ["."]}, "stop_strings"),
        ({"max_new_tokens": 0}, "max_new_tokens|empty"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(capsys, checkpoint, tmp_path, values, message):
    assert call(*cali_flags(checkpoint(**values), tmp_path / "o")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert any(each in lines[0] for each in message.split("|"))
    assert not (tmp_path / "o").exists()


def test_a_threshold_that_adapts_is_for_greedy_decoding(capsys, checkpoint, tmp_path):
    folder = checkpoint(no_repeat_ngram_size=3)
    message = f"no_repeat_ngram_size 3 in {folder}/generation_config.json: --use_adapt_threshold is for plain"
    fails_with(capsys, eval_flags(folder, tmp_path / "o", *SHALLOW), message)
    assert not (tmp_path / "o").exists()


def test_what_a_config_returns_beside_the_tokens_is_refused_with_exits(capsys, checkpoint, tmp_path):
    folder = checkpoint(output_scores=True, return_dict_in_generate=True)
    for flags in (eval_flags(folder, tmp_path / "o", *EXITS), cali_flags(folder, tmp_path / "o")):
        fails_with(capsys, flags, "generation_config.json: exits do not serve returning output_scores")
    assert not (tmp_path / "o").exists()
    assert call(*eval_flags(folder, tmp_path / "plain")) == 0


def test_flags_outweigh_the_checkpoints_config(checkpoint, tmp_path):
    folder = checkpoint(num_beams=4)
    assert call(*eval_flags(folder, tmp_path / "exits", *EXITS, "--num_beams", "1")) == 0
    assert call(*eval_flags(folder, tmp_path / "beams")) == 0  # transformers' own decoding has them


def verdict(folder, output, *more):
    assert call(*cali_flags(folder, output, "--thresholds", "0.9", "--calibrate_delta", ".99", *more)) == 0
    return json.loads((output / "calibration.json").read_text())


def test_what_changes_tokens_is_in_the_fingerprint(checkpoint, tmp_path):
    others = [
        {}, {"max_new_tokens": 5}, {"min_length": 8}, {"no_repeat_ngram_size": 2},
        {"repetition_penalty": 1.3}, {"suppress_tokens": [7, 8]}, {"bad_words_ids": [[9]]},
        {"forced_bos_token_id": 5}, {"eos_token_id": [1, 6]},
    ]  # fmt: skip
    results = [verdict(checkpoint(**values), tmp_path / f"o{place}") for place, values in enumerate(others)]
    assert len({result["fingerprint"] for result in results}) == len(others)
    assert results[1]["pipeline"]["max tokens"] == 6
    for values, result in list(zip(others, results, strict=True))[2:]:
        ((name, value),) = values.items()
        assert result["pipeline"]["generation"][name] == value
        assert result["exit_calibration"]["generation"][name] == value
    plain = results[0]
    same = [
        {"temperature": 0.5, "top_k": 7},
        {"length_penalty": 2.0},
        {"use_cache": False},
        {"min_length": 1},
    ]
    for place, values in enumerate(same):
        again = verdict(checkpoint(**values), tmp_path / f"s{place}")
        assert again["fingerprint"] == plain["fingerprint"], values


def test_a_sweep_under_another_generation_config_is_another_sweep(capsys, checkpoint, tmp_path):
    folder = checkpoint()
    sweep = eval_flags(folder, tmp_path / "o", "--static_exit_layer", "1", "2")
    assert call(*sweep) == 0
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"min_length": 9}))
    fails_with(capsys, sweep, "not empty")
