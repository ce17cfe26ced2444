"""Prediction: documents without summaries, tokenizers of one's own, rows without text."""

import csv
import json

import pytest
from transformers import AutoTokenizer

from early_exit.models.loading import load_model
from tests.cli.conftest import QUIET, call, train_flags
from tests.cli.test_bad_input import fails_with
from util.corpus import generate

DOCUMENTS = [row["document"] for row in generate("test", 4)]


def predict_flags(model, output, test_file, *more):
    return [
        *QUIET, "--source_prefix", "summarize: ", "--max_target_length", "12", "--do_predict",
        "--predict_with_generate", "--model_name_or_path", str(model), "--test_file", str(test_file),
        "--output_dir", str(output), *more,
    ]  # fmt: skip


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_json(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def texts(folder):
    return (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def expected(model, tmp_path):
    """What is predicted for the documents where they have summaries."""
    rows = [{"document": text, "summary": "a summary"} for text in DOCUMENTS]
    assert call(*predict_flags(model, tmp_path / "e", write_json(tmp_path / "e.json", rows))) == 0
    assert "predict_rougeL" in json.loads((tmp_path / "e" / "predict_results.json").read_text())
    return texts(tmp_path / "e")


FILES = {
    "csv without the column": lambda path: write_csv(
        path / "a.csv", ["document"], [[text] for text in DOCUMENTS]
    ),
    "csv with other columns": lambda path: write_csv(
        path / "a.csv", ["id", "document"], [[number, text] for number, text in enumerate(DOCUMENTS)]
    ),
    "csv with empty cells": lambda path: write_csv(
        path / "a.csv", ["document", "summary"], [[text, ""] for text in DOCUMENTS]
    ),
    "json without the column": lambda path: write_json(
        path / "a.json", [{"document": text} for text in DOCUMENTS]
    ),
    "json with null": lambda path: write_json(
        path / "a.json", [{"document": text, "summary": None} for text in DOCUMENTS]
    ),
    "json with empty texts": lambda path: write_json(
        path / "a.json", [{"document": text, "summary": ""} for text in DOCUMENTS]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_predict_needs_no_summaries(expected, model, tmp_path, kind):
    assert call(*predict_flags(model, tmp_path / "o", FILES[kind](tmp_path))) == 0
    assert texts(tmp_path / "o") == expected
    results = json.loads((tmp_path / "o" / "predict_results.json").read_text())
    assert results["predict_samples"] == 4
    assert results["predict_gen_len"] > 0
    assert not [name for name in results if name.startswith("predict_rouge")]


def test_with_exits_and_a_named_column(model, tmp_path):
    file = write_csv(tmp_path / "a.csv", ["body"], [[text] for text in DOCUMENTS])
    flags = predict_flags(model, tmp_path / "o", file, "--text_column", "body", "--static_exit_layer", "1")
    assert call(*flags) == 0
    assert len(texts(tmp_path / "o")) == 4


def test_some_summaries_are_enough_for_rouge(expected, model, tmp_path):
    rows = [{"document": text, "summary": "a b" if number else None} for number, text in enumerate(DOCUMENTS)]
    assert call(*predict_flags(model, tmp_path / "o", write_json(tmp_path / "a.json", rows))) == 0
    assert texts(tmp_path / "o") == expected
    assert "predict_rougeL" in json.loads((tmp_path / "o" / "predict_results.json").read_text())


def test_where_summaries_are_needed_their_lack_is_named(capsys, model, tmp_path):
    file = write_csv(tmp_path / "a.csv", ["document"], [[text] for text in DOCUMENTS])
    flags = [flag for flag in predict_flags(model, tmp_path / "o", file) if flag != "--predict_with_generate"]
    fails_with(capsys, flags, "without summaries needs --predict_with_generate")
    named = predict_flags(model, tmp_path / "o", file, "--text_column", "body")
    fails_with(capsys, named, "no column 'body' (--text_column); there are: document")
    evaluate = [
        {"--do_predict": "--do_eval", "--test_file": "--validation_file"}.get(flag, flag)
        for flag in predict_flags(model, tmp_path / "o", file)
    ]
    fails_with(capsys, evaluate, "there are: document")
    assert not (tmp_path / "o").exists()


def test_rows_without_text_do_not_fail_a_batch(model, tmp_path):
    rows = [{"document": text} for text in ["", DOCUMENTS[0], " ", DOCUMENTS[1]]]
    file = write_json(tmp_path / "a.json", rows)
    for name, more in (("stock", []), ("exits", ["--static_exit_layer", "3"])):
        flags = predict_flags(model, tmp_path / name, file, "--source_prefix", "", *more)
        assert call(*flags) == 0
    assert texts(tmp_path / "stock") == texts(tmp_path / "exits")


@pytest.fixture
def larger(model, tmp_path):
    """The model's tokenizer with more tokens than the model has embeddings."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["fire", "<new>", "council"])
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_a_larger_tokenizer_is_trained_with(larger, model, tmp_path):
    flags = train_flags(tmp_path / "o", "--model_name_or_path", str(model), "--tokenizer_name", str(larger))
    place = flags.index("--model_shape")
    assert call(*flags[:place], *flags[place + 2 :], "--do_eval", "--max_eval_samples", "3") == 0
    trained = load_model(str(tmp_path / "o"))
    assert trained.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "o"))
    file = write_json(tmp_path / "a.json", [{"document": "<new> fire"}])
    assert call(*predict_flags(tmp_path / "o", tmp_path / "p", file)) == 0


def test_a_larger_tokenizer_without_training_is_refused(capsys, larger, model, tmp_path):
    file = write_json(tmp_path / "a.json", [{"document": "<new> fire"}])
    flags = predict_flags(model, tmp_path / "o", file, "--tokenizer_name", str(larger))
    fails_with(capsys, flags, "the tokenizer has ids up to")
    heads = ["--do_train", "--train_meta_cm_head", "--exit_conf_type", "MLP", "--train_file", str(file)]
    columns = ["--text_column", "document", "--summary_column", "document"]
    fails_with(capsys, [*flags, *heads, *columns], "the tokenizer has ids up to")
    lora = [
        "--do_train",
        "--use_lora",
        "True",
        "--output_hidden_states_decoder",
        "True",
        "--train_file",
        str(file),
    ]
    fails_with(capsys, [*flags, *lora, *columns], "the tokenizer has ids up to")
    assert not (tmp_path / "o").exists()


def test_a_vocabulary_that_is_too_small_is_named(capsys, tmp_path):
    flags = train_flags(tmp_path / "o", "--tokenizer_vocab_size", "99")
    fails_with(capsys, flags, "--tokenizer_vocab_size 99 is too small; allowed: 100 and above")
    flags = train_flags(tmp_path / "o", "--tokenizer_vocab_size", "100")
    assert call(*flags) == 0
    assert load_model(str(tmp_path / "o")).config.vocab_size <= 100
