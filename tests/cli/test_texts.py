"""Data of any script and any type through the entry point, and what its scores are computed against."""

import json
import os
import string

import pytest
from transformers import AutoTokenizer

from tests.cli.conftest import QUIET, call, eval_flags
from tests.cli.test_bad_input import fails_with
from tests.cli.test_calibration import cali_flags
from util.corpus import generate
from util.metrics import ROUGE_TYPES, Rouge

LETTERS = string.ascii_lowercase
CYRILLIC = str.maketrans(
    LETTERS + LETTERS.upper(), "абвгдежзийклмнопрстуфхцчшщ" + "АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩ"
)


def on_file(flags, name, file):
    """The flags with a file in the place of the embedded corpus."""
    flags = [*flags, name, str(file)]
    if "--dataset_name" in flags:
        place = flags.index("--dataset_name")
        del flags[place : place + 2]
    return flags


def json_file(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def results(folder, name="all"):
    return json.loads((folder / f"{name}_results.json").read_text(encoding="utf-8"))


def rouge(predictions, references):
    return Rouge(keep_in_memory=True).compute(predictions=predictions, references=references)


@pytest.mark.parametrize("longest_target", ["12", "5"])
def test_rouge_is_against_the_whole_summaries_of_the_data(tmp_path, model, longest_target):
    rows = [dict(row) for row in generate("test", 4)]
    rows[0]["summary"] = rows[0]["summary"] + " Ünïcode ☃ 東京 that the tokenizer lacks."
    references = [row["summary"] for row in rows]
    assert AutoTokenizer.from_pretrained(model)("東京").input_ids[-2] == 2  # unknown
    file = json_file(tmp_path / "test.json", rows)
    flags = eval_flags(model, tmp_path / "out", "--do_predict", "--test_file", str(file))
    flags = on_file(flags, "--validation_file", file)
    flags += ["--val_max_target_length", longest_target, "--generation_max_length", "30"]
    flags[flags.index("--max_eval_samples") + 1] = "9"
    assert call(*flags) == 0
    predictions = (tmp_path / "out" / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()
    content, expected = results(tmp_path / "out"), rouge(predictions, references)
    for name in ROUGE_TYPES:
        assert content[f"eval_{name}"] == content[f"predict_{name}"] == pytest.approx(expected[name])
    assert content["predict_references_without_words"] == 0
    assert "Unicode" in content["rouge_words"]
    assert "regex" in content["versions"]


def test_each_split_has_its_own_references(tmp_path, model):
    rows = generate("test", 6)
    validation = json_file(tmp_path / "validation.json", rows[:2])
    test = json_file(tmp_path / "test.json", [{**row, "summary": "👍"} for row in rows[2:]])
    flags = eval_flags(model, tmp_path / "out", "--do_predict", "--test_file", str(test))
    assert call(*on_file(flags, "--validation_file", validation)) == 0
    content = results(tmp_path / "out")
    assert content["predict_rougeL"] == 0
    assert content["predict_references_without_words"] == 4
    assert content["eval_references_without_words"] == 0


@pytest.mark.parametrize("translated", [False, True])
def test_training_evaluates_against_whole_summaries_of_any_script(tmp_path, translated):
    table = CYRILLIC if translated else {}
    rows = [{name: text.translate(table) for name, text in row.items()} for row in generate("train", 6)]
    file = json_file(tmp_path / "train.json", rows)
    flags = [
        *QUIET, "--model_shape", "tiny", "--tokenizer_vocab_size", "120", "--do_train", "--do_eval",
        "--train_file", str(file), "--validation_file", str(file), "--max_steps", "1",
        "--eval_strategy", "steps", "--eval_steps", "1", "--predict_with_generate",
        "--val_max_target_length", "8", "--output_dir", str(tmp_path / "out"),
    ]  # fmt: skip
    assert call(*flags) == 0
    content = results(tmp_path / "out")
    assert content["eval_references_without_words"] == 0
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    during = [entry for entry in state["log_history"] if "eval_rougeL" in entry]
    assert during[0]["eval_rougeL"] == content["eval_rougeL"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "document,summary\n7,3\n8,4\n"),
        ("a.csv", "document,summary\n1.5,True\nN/A,None\n"),
        ("a.json", '{"document": 7, "summary": 1.5}\n{"document": "x", "summary": true}'),
        ("a.json", '[{"document": "2024-01-05", "summary": null}, {"document": "x", "summary": 2}]'),
    ],
)
def test_columns_of_any_type_are_evaluated(tmp_path, model, name, text):
    file = tmp_path / name
    file.write_text(text)
    flags = on_file(eval_flags(model, tmp_path / "out", "--do_predict"), "--validation_file", file)
    assert call(*flags, "--test_file", str(file)) == 0
    assert results(tmp_path / "out")["eval_samples"] == 2


def test_nested_columns_are_one_line_before_anything_is_written(capsys, tmp_path, model):
    file = json_file(tmp_path / "a.json", [{"document": "x", "summary": ["y", "z"]}])
    flags = on_file(eval_flags(model, tmp_path / "out"), "--validation_file", file)
    fails_with(capsys, flags, "column 'summary', row 1 holds a list where a text is expected: ['y', 'z']")
    assert not (tmp_path / "out").exists()


def test_a_sweep_over_an_edited_file_starts_anew(capsys, tmp_path, model):
    rows = generate("test", 2)
    file = json_file(tmp_path / "a.json", rows)
    status = file.stat()
    flags = on_file(eval_flags(model, tmp_path / "out"), "--validation_file", file)
    flags += ["--static_exit_layer", "1", "2"]
    assert call(*flags) == 0
    first = rows[0]["summary"]
    file.write_text(file.read_text().replace(first[:5], first[:5][::-1]))
    os.utime(file, (status.st_atime, status.st_mtime))
    assert file.stat().st_size == status.st_size
    fails_with(capsys, flags, "not empty")


def test_calibration_counts_references_without_words(capsys, tmp_path, model):
    rows = [
        {**row, "summary": "👍" if number < 5 else row["summary"]}
        for number, row in enumerate(generate("test", 20))
    ]
    file = json_file(tmp_path / "a.json", rows)
    flags = on_file(cali_flags(model, tmp_path / "out"), "--validation_file", file)
    flags[flags.index("textual")] = "risk"
    assert call(*flags) == 0
    counted = json.loads((tmp_path / "out" / "calibration.json").read_text())["references_without_words"]
    assert sum(counted.values()) == 5
    assert "references without words, which show no loss of ROUGE" in capsys.readouterr().out
