"""Translation and question answering, flags to results: families, Unicode, calibration, bad input."""

import json
import sys
from itertools import islice

import pytest
from transformers import AutoTokenizer, ByT5Tokenizer

import runner
from tests.cli.conftest import QUIET, ROOT
from tests.tiny import tiny_model
from util.calibration_arguments import CalibrationArguments
from util.dissimilarity import CONSISTENCY
from util.task_arguments import AnswerArguments, TranslationArguments
from util.tokenizer import number_of_ids, train_tokenizer

MULTI30K = ROOT.parent / "shared" / "data" / "multi30k" / "validation.json"
TOY = ["--dataset_name", "embedded", "--source_lang", "en", "--target_lang", "toy"]
SHORT = [*QUIET, "--max_source_length", "160", "--max_target_length", "10", "--predict_with_generate"]
NEW = ["--model_shape", "tiny", "--tokenizer_vocab_size", "300", "--output_hidden_states_decoder", "True"]
NEW += ["--do_train", "--max_train_samples", "32", "--max_steps", "2"]
EVALUATES = ["--do_eval", "--max_eval_samples", "3"]


def run(task, *flags) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *map(str, flags)])
        return runner.main(task)


def results(folder, split="eval") -> dict:
    return json.loads((folder / f"{split}_results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def answering(tmp_path_factory):
    """A tiny model that has seen a few questions on embedded reports."""
    folder = tmp_path_factory.mktemp("answers") / "model"
    flags = [*NEW, *SHORT, *EVALUATES, "--dataset_name", "embedded", "--output_dir", folder]
    assert run(AnswerArguments, *flags, "--do_predict", "--max_predict_samples", "2") == 0
    return folder


def test_question_answering_on_the_embedded_default(answering):
    found = results(answering)
    assert 0 <= found["eval_exact_match"] <= found["eval_f1"] <= 100
    assert found["answer_words"].startswith("lower case")
    assert "sacrebleu" in found["versions"]
    assert len((answering / "generated_predictions.txt").read_text().splitlines()) == 2


def test_translation_on_the_embedded_default_and_a_sweep(tmp_path):
    model, sweep = tmp_path / "model", tmp_path / "sweep"
    assert run(TranslationArguments, *NEW, *SHORT, *EVALUATES, *TOY, "--output_dir", model) == 0
    assert results(model)["eval_chrf"] >= 0
    assert "tok:13a" in results(model)["bleu_rules"]
    flags = [*SHORT, *EVALUATES, *TOY, "--model_name_or_path", model, "--output_dir", sweep]
    assert run(TranslationArguments, *flags, "--static_exit_layer", "all") == 0
    assert (sweep / "sweep.csv").read_text().startswith("setting,BLEU,chrF,block_avg,")


@pytest.mark.parametrize("loss", ["bleu", "chrf", "answer_f1", "exact_match"])
def test_calibration_by_each_loss(answering, tmp_path, loss):
    flags = [
        *SHORT, "--dataset_name", "embedded", "--model_name_or_path", answering, "--output_dir", tmp_path,
        "--do_cali", "True", "--use_early_exit", "True", "--max_calibrate_samples", "6",
        "--max_predict_samples", "3", "--consistency_type", "risk", "--calibrate_loss", loss,
        "--calibrate_delta", "0.9", "--thresholds", "1.0", "0.0",
    ]  # fmt: skip
    assert run(AnswerArguments, *flags) == 0
    verdict = json.loads((tmp_path / "calibration.json").read_text())
    assert verdict["loss"] == loss


def test_exact_match_may_be_bounded_as_a_count():
    """Its losses are 0 and 1, which the binomial bound wants."""
    assert CONSISTENCY["risk"]["exact_match"].zero_one
    assert CalibrationArguments(calibrate_loss="exact_match").calibrate_loss in CONSISTENCY["risk"]


@pytest.mark.skipif(not MULTI30K.exists(), reason=f"needs {MULTI30K}")
@pytest.mark.parametrize("family", ["mt5", "umt5", "byt5"])
def test_families_learn_and_decode_german(family, tmp_path):
    with MULTI30K.open(encoding="utf-8") as file:
        rows = [json.loads(line)["translation"] for line in islice(file, 24)]
    texts = [text for row in rows for text in row.values()]
    tokenizer = ByT5Tokenizer() if family == "byt5" else train_tokenizer(texts, 300)
    model = tiny_model(family)
    model.resize_token_embeddings(number_of_ids(tokenizer))
    start, trained = tmp_path / "start", tmp_path / "trained"
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    data = ["--train_file", MULTI30K, "--validation_file", MULTI30K]
    data += ["--source_lang", "de", "--target_lang", "en"]
    training = ["--do_train", "--max_train_samples", "16", "--max_steps", "2", "--exit_propagation", "0.5"]
    training += ["--output_hidden_states_decoder", "True", "--exit_loss_curriculum", "rotational"]
    flags = [*SHORT, *data, "--model_name_or_path", start, *training, *EVALUATES]
    exits = ["--use_early_exit", "True", "--exit_conf_threshold", "0.1", "--deploy_scenario", "True"]
    assert run(TranslationArguments, *flags, *exits, "--output_dir", trained) == 0
    assert 1 <= results(trained)["eval_block_avg"] <= model.num_exits
    again = AutoTokenizer.from_pretrained(trained)
    german = [row["de"] for row in rows if set(row["de"]) & set("äöüß")]
    assert german
    for text in german:
        assert again.decode(again(text)["input_ids"], skip_special_tokens=True) == text


def test_bad_input_is_one_line(capsys, tmp_path):
    flags = [*NEW, *SHORT, "--output_dir", tmp_path / "o"]
    for task, more, message in (
        (TranslationArguments, TOY[:-2], "--target_lang is missing"),
        (TranslationArguments, [*TOY[:-1], "fr"], "no column 'fr' (--target_lang); there are: en, toy"),
        (AnswerArguments, [*TOY[:2], "--summary_column", "x"], "--summary_column has no effect here"),
        (AnswerArguments, ["--dataset_name", "embedded", "--answer_column", "x"], "no column 'x'"),
    ):
        assert run(task, *flags, *more) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1
        assert message in lines[0]
        assert not (tmp_path / "o").exists()
