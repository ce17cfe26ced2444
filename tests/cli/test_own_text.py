"""Training on what the model itself writes."""

import json
import os
import subprocess
from collections import Counter

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from early_exit.models.loading import load_model
from tests.cli.conftest import ROOT, call, train_flags
from tests.cli.test_bad_input import fails_with
from tests.cli.test_exit_adapters import adapter_flags
from tests.cli.test_training import more_flags
from trainers import own_texts
from trainers.joint import JointTrainer
from util.corpus import generate

OWN = ["--train_on_own_text", "True"]


@pytest.fixture
def trained_on(monkeypatch):
    """Collects the examples of every training."""
    seen = []
    train = JointTrainer.train

    def collect(self, *args, **kwargs):
        seen.append([dict(row) for row in self.train_dataset])
        return train(self, *args, **kwargs)

    monkeypatch.setattr(JointTrainer, "train", collect)
    return seen


def result(folder):
    return json.loads((folder / "train_results.json").read_text(encoding="utf-8"))


def greedy(model, tokenizer, document):
    """transformers' own text."""
    inputs = tokenizer("summarize: " + document, return_tensors="pt")
    tokens = model.generate(**inputs, max_length=12, exit_policy=None)[0, 1:].tolist()
    return tokens[: tokens.index(1) + 1] if 1 in tokens else tokens


def test_the_examples_are_the_models_own_greedy_texts(model, tmp_path, trained_on):
    assert call(*more_flags(model, tmp_path / "o", *OWN, "--max_train_samples", "9")) == 0
    tokenizer = AutoTokenizer.from_pretrained(model)
    plain = load_model(str(model)).eval()
    documents = [row["document"] for row in generate("train")[:9]]
    assert [row["labels"] for row in trained_on[0]] == [greedy(plain, tokenizer, each) for each in documents]
    wanted = [tokenizer("summarize: " + each)["input_ids"] for each in documents]
    assert [row["input_ids"] for row in trained_on[0]] == wanted
    assert (result(tmp_path / "o")["own_texts"], result(tmp_path / "o")["gold_texts"]) == (9, 0)
    kept = (tmp_path / "o" / "own_texts.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    texts = sorted(tokenizer.decode(row["labels"], skip_special_tokens=True) for row in trained_on[0])
    assert sorted(json.loads(line)["text"] for line in kept) == texts


def test_writing_goes_on_where_it_was_interrupted(model, tmp_path, monkeypatch):
    monkeypatch.setattr(own_texts, "_AT_ONCE", 4)
    decode, decoded = own_texts.decode_prompts, []

    def interrupted(model, policy, precision, sources, *rest):
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(len(sources))
        return decode(model, policy, precision, sources, *rest)

    monkeypatch.setattr(own_texts, "decode_prompts", interrupted)
    flags = more_flags(model, tmp_path / "o", *OWN, "--max_train_samples", "10")
    with pytest.raises(KeyboardInterrupt):
        call(*flags)
    monkeypatch.setattr(own_texts, "decode_prompts", lambda *all: decoded.append(len(all[3])) or decode(*all))
    assert call(*flags) == 0
    assert decoded == [4, 4, 2]
    assert call(*more_flags(model, tmp_path / "p", *OWN, "--max_train_samples", "10")) == 0
    parts = [(tmp_path / name / "own_texts.jsonl").read_bytes() for name in "op"]
    assert parts[0] == parts[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "op"]
    assert weights[0] == weights[1]


def test_texts_written_for_one_method_serve_another(model, tmp_path):
    texts = tmp_path / "texts.jsonl"
    flags = [*OWN, "--own_text_file", str(texts), "--max_train_samples", "5", "--max_steps", "1"]
    assert call(*more_flags(model, tmp_path / "model", *flags)) == 0
    written = texts.read_bytes()
    assert call(*adapter_flags(model, tmp_path / "adapters", *flags)) == 0
    assert texts.read_bytes() == written


def test_gold_texts_and_unlabelled_documents_beside(model, tmp_path, trained_on):
    rows = generate("train")[:6]
    (tmp_path / "more.jsonl").write_text(
        "".join(json.dumps({"document": text}) + "\n" for text in ("a fire", "a flood", rows[0]["document"]))
    )
    more = [*OWN, "--own_text_gold_share", "0.6", "--unlabelled_file", str(tmp_path / "more.jsonl")]
    assert call(*more_flags(model, tmp_path / "o", *more, "--max_train_samples", "6")) == 0
    assert (result(tmp_path / "o")["own_texts"], result(tmp_path / "o")["gold_texts"]) == (8, 12)
    tokenizer = AutoTokenizer.from_pretrained(model)
    gold = [
        tokenizer(text_target=row["summary"], max_length=12, truncation=True)["input_ids"] for row in rows
    ]
    labels = Counter(tuple(row["labels"]) for row in trained_on[0][8:])
    assert labels == Counter({tuple(each): 2 for each in gold})  # each twice
    hashes = (tmp_path / "o" / "training_documents.txt").read_text().split()
    before = (model / "training_documents.txt").read_text().split()
    assert len(set(hashes) - set(before)) == 2


def test_summaries_are_not_needed(model, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"document": "a fire"}\n{"document": "a flood"}\n')
    flags = more_flags(model, tmp_path / "o", *OWN)
    place = flags.index("--dataset_name")
    flags[place : place + 2] = ["--train_file", str(tmp_path / "d.jsonl")]
    assert call(*flags) == 0
    assert result(tmp_path / "o")["train_samples"] == 2


def test_exit_heads_learn_from_own_texts(model, tmp_path):
    flags = more_flags(model, tmp_path / "o", *OWN, "--train_meta_cm_head", "--exit_conf_type", "MLP")
    assert call(*flags, "--max_train_samples", "8") == 0
    before = T5ForConditionalGeneration.from_pretrained(model).state_dict()
    after = T5ForConditionalGeneration.from_pretrained(tmp_path / "o").state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def test_texts_of_another_model_are_refused(capsys, model, tmp_path):
    file = ["--own_text_file", str(tmp_path / "own.jsonl")]
    assert call(*more_flags(model, tmp_path / "o", *OWN, *file, "--max_train_samples", "4")) == 0
    flags = more_flags(tmp_path / "o", tmp_path / "p", *OWN, *file, "--max_train_samples", "4")
    fails_with(capsys, flags, "own.jsonl were written otherwise (weights): remove it, or name another file")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--own_text_gold_share", "0.5"], "--own_text_gold_share has no effect without --train_on_own_text"),
        (["--unlabelled_file", "x.json"], "--unlabelled_file has no effect without --train_on_own_text"),
        (["--own_text_file", "x.json"], "--own_text_file has no effect without --train_on_own_text"),
        ([*OWN, "--own_text_gold_share", "1"], "--own_text_gold_share 1.0 is outside [0, 1)"),
        ([*OWN, "--own_text_gold_share", "nan"], "--own_text_gold_share nan is outside [0, 1)"),
        ([*OWN, "--unlabelled_file", "none.json"], "none.json: no such file"),
        ([*OWN, "--do_train", "False", "--do_eval"], "--train_on_own_text needs --do_train"),
        ([*OWN, "--output_hidden_states_decoder", "False"], "needs --output_hidden_states_decoder"),
    ],
)
def test_bad_flags(capsys, model, tmp_path, more, message):
    flags = more_flags(model, tmp_path / "o", *more)
    if "False" in more:
        place = flags.index("--intermediate_loss_fn")
        del flags[place : place + 2]
    fails_with(capsys, flags, message)
    assert not (tmp_path / "o").exists()


def test_a_model_without_training_writes_nothing(capsys, tmp_path):
    fails_with(capsys, train_flags(tmp_path / "o", *OWN), "needs a trained model to write the texts")


def test_the_script_ends_with_own_texts(python, tmp_path):
    rows = [{"document": f"a fire in the {place}", "summary": f"{place} burns"} for place in "abcdefgh"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "MODEL_SHAPE": "tiny", "TRAIN_FILE": tmp_path / "t.jsonl",
        "TOKENIZER_VOCAB_SIZE": 400, "MAX_STEPS": 2, "OUTPUT_DIR": tmp_path / "o",
        "OWN_TEXT_STEPS": 2, "DOCUMENTS": 6, "MAX_TARGET_LENGTH": 12, "PYTHON": python,
    }  # fmt: skip
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    command = ["bash", "scripts/train.sh", "--use_cpu", "--disable_tqdm", "True"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    assert result(tmp_path / "o")["own_texts"] == 6
    assert "own_texts" not in result(tmp_path / "o-before")
