"""Shortlists of tokens from the command line."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from early_exit.models.loading import load_model
from runner import rank_tokens
from tests.cli.conftest import DATA, QUIET, call, eval_flags
from tests.cli.test_bad_input import fails_with
from util.corpus import generate
from util.files import read_json
from util.generate_arguments import GenerateArguments, prompt_settings

TRAINED_ON = 64  # reports, see conftest.py
SOFTMAX = ["--use_early_exit", "True", "--exit_conf_type", "softmax", "--exit_conf_threshold", "0.02"]


def test_training_ranks_the_tokens_of_its_summaries(model):
    trained, tokenizer = load_model(model), AutoTokenizer.from_pretrained(model)
    summaries = [each["summary"] for each in generate("train", TRAINED_ON)]
    labels = tokenizer(summaries, truncation=True, max_length=12)["input_ids"]
    counts = Counter(token for text in labels for token in text)
    assert [counts[token] for token in trained.token_ranking.tolist()][:9] == [
        count for _, count in counts.most_common(9)
    ]


def test_a_sweep_of_lists(model, tmp_path):
    assert call(*eval_flags(model, tmp_path / "out", *SOFTMAX, "--shortlist", "none", "20", "60")) == 0
    points = json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]
    assert [point["policy"]["shortlist"] for point in points] == [None, 20, 60]
    assert [point["setting"] for point in points][1:] == ["softmax λ=0.02 N=20", "softmax λ=0.02 N=60"]


def columns_of_calibration(model, folder, *more):
    flags = [
        *DATA, *QUIET, "--model_name_or_path", str(model), "--do_cali", "True", "--use_early_exit", "True",
        "--exit_conf_type", "softmax", "--thresholds", "0.3", "1.0", "--max_calibrate_samples", "6",
        "--output_dir", str(folder), "--predict_with_generate", *more,
    ]  # fmt: skip
    assert call(*flags) == 0
    return read_json(folder / "loss_table.json.gz")["columns"]


def test_a_list_is_a_knob_of_calibration(model, tmp_path):
    columns = columns_of_calibration(model, tmp_path / "cali", "--calibrate_grid", "shortlist=none,40")
    assert {column["setting"]["shortlist"] for column in columns} == {None, 40}


def test_exact_drafts_on_a_list_lose_what_full_depth_loses_by_it(model, tmp_path):
    more = [
        "--shortlist", "200", "--shortlist_at_full_depth", "True", "--calibrate_grid", "verify=none,exact",
        "--calibrate_delta", "0.95", "--max_calibrate_samples", "12",
    ]  # fmt: skip
    _, *columns = columns_of_calibration(model, tmp_path / "cali", *more)
    (deepest,) = [c for c in columns if c["setting"]["verify"] is None and c["setting"]["threshold"] == 1]
    exact = [column for column in columns if column["setting"]["verify"] == "exact"]
    assert {column["setting"]["threshold"] for column in exact} >= {0.3}
    assert max(deepest["losses"]) > 0
    assert all(column["losses"] == deepest["losses"] for column in exact)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shortlist", "5"], "--shortlist has no effect without --use_early_exit"),
        ([*SOFTMAX, "--shortlist", "0"], "a shortlist of 0 tokens; allowed: 1 and above"),
        ([*SOFTMAX, "--shortlist", "many"], "'many' is neither a whole number nor 'none'"),
        ([*SOFTMAX, "--shortlist", "9", "--lm_head_screen", "True"], "exclude each other"),
        ([*SOFTMAX, "--shortlist_at_full_depth", "True"], "has no effect without --shortlist"),
        ([*SOFTMAX, "--shortlist", "99999"], "a shortlist of 99999 tokens, of a vocabulary of"),
    ],
)
def test_lists_that_cannot_be(model, tmp_path, capsys, flags, message):
    fails_with(capsys, eval_flags(model, tmp_path / "out", *flags), message)


def ranked(monkeypatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rank_tokens", *flags])
    return rank_tokens.main()


def test_a_checkpoint_from_elsewhere_gets_a_ranking(model, tmp_path, monkeypatch):
    plain, output, data = tmp_path / "plain", tmp_path / "ranked", tmp_path / "train.jsonl"
    data.write_text('{"document": "a", "summary": "Police police police"}\n')
    without = load_model(model)
    without.token_ranking, without.config.token_ranking = None, None
    without.save_pretrained(plain)
    AutoTokenizer.from_pretrained(model).save_pretrained(plain)
    flags = ["--model_name_or_path", str(plain), "--train_file", str(data), "--output_dir", str(output)]
    assert ranked(monkeypatch, *flags) == 0
    tokens = Counter(AutoTokenizer.from_pretrained(model)("Police police police")["input_ids"])
    ranking = load_model(output).token_ranking.tolist()
    assert ranking[: len(tokens)] == sorted(tokens, key=lambda token: (-tokens[token], token))
    assert ranked(monkeypatch, *flags) == 2  # the folder is not empty
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"translation": {"de": "a", "en": "Police police police"}}\n')
    flags = ["--model_name_or_path", str(plain), "--train_file", str(pairs), "--task", "translation"]
    flags += ["--output_dir", str(tmp_path / "pairs")]
    assert ranked(monkeypatch, *flags) == 2  # which language is written?
    assert ranked(monkeypatch, *flags, "--source_lang", "de", "--target_lang", "en") == 0
    assert load_model(tmp_path / "pairs").token_ranking.tolist() == ranking
    assert not Path(tmp_path / "other").exists()


def test_a_ranking_keeps_what_training_left_beside_the_checkpoint(model, tmp_path, monkeypatch):
    output, data = tmp_path / "ranked", tmp_path / "train.jsonl"
    data.write_text('{"document": "Another report.", "summary": "Police"}\n')
    flags = ["--model_name_or_path", str(model), "--train_file", str(data), "--output_dir", str(output)]
    assert ranked(monkeypatch, *flags) == 0
    before, after = (
        set((folder / "training_documents.txt").read_text().split()) for folder in (model, output)
    )
    assert before < after  # the document whose summary was counted is no prompt to calibrate with either
    assert len(after) == len(before) + 1
    loaded = load_model(output)
    kept, known = (prompt_settings(GenerateArguments(str(folder)), loaded) for folder in (output, model))
    assert kept == known
    assert kept.prefix == "summarize: "
    assert read_json(output / "run.json")["finished"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no data"),
        (["--validation_file", "v.json"], "--train_file is missing"),
        (["--train_file", "t.json", "--dataset_name", "embedded"], "contradict each other"),
        (["--train_file", "t.json", "--preprocessing_num_workers", "-1"], "--preprocessing_num_workers -1"),
    ],
)
def test_rankings_that_cannot_be(tmp_path, capsys, monkeypatch, flags, message):
    output = tmp_path / "ranked"
    assert ranked(monkeypatch, "--model_name_or_path", "m", "--output_dir", str(output), *flags) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()
