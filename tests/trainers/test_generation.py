"""What evaluation reports, against counting by hand; and what its clock holds."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainingArguments

from early_exit import ExitPolicy, Scores
from early_exit.models import stream
from tests.tiny import tiny_model
from trainers import generation
from trainers.generation import GenerationSettings
from trainers.joint import JointTrainer
from util.corpus import generate
from util.tokenizer import train_tokenizer

TEXTS = generate("test", 5)
TOKENIZER = train_tokenizer([text for example in TEXTS for text in example.values()], 97)
NEW_TOKENS = 8


@pytest.fixture
def trainer(tmp_path):
    rows = [
        {
            **TOKENIZER(example["document"], max_length=20, truncation=True),
            "labels": TOKENIZER(example["summary"]).input_ids,
        }
        for example in TEXTS
    ]
    model = tiny_model()
    return JointTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(
            output_dir=str(tmp_path),
            predict_with_generate=True,
            per_device_eval_batch_size=2,
            generation_max_length=NEW_TOKENS + 1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        eval_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
        data_collator=DataCollatorForSeq2Seq(TOKENIZER, model=model),
        compute_metrics=lambda rows: {"labels": rows.label_ids, "predictions": rows.predictions},
    )


def decode_alone(trainer, policy):
    """Tokens and exit layers of each example by itself, padding and start token removed."""
    for row in trainer.eval_dataset:
        output = trainer.model.generate(
            input_ids=torch.tensor([row["input_ids"]]),
            max_new_tokens=NEW_TOKENS,
            exit_policy=policy,
            return_dict_in_generate=True,
        )
        yield output.sequences[0, 1:].tolist(), output.exit_layers[0].tolist()


@pytest.mark.parametrize(
    "policy",
    [ExitPolicy(), ExitPolicy(static_layer=2), ExitPolicy(measure="softmax", threshold=0.1)],
    ids=["full", "static", "softmax"],
)
def test_statistics_equal_counting_by_hand(trainer, policy):
    trainer.generation = GenerationSettings(policy=policy)
    metrics = trainer.evaluate()
    tokens, layers = zip(*decode_alone(trainer, policy), strict=True)
    flat = [layer for row in layers for layer in row]
    assert metrics["eval_predictions"] == list(tokens)
    assert metrics["eval_labels"] == list(trainer.eval_dataset["labels"])
    assert metrics["eval_block_avg"] == pytest.approx(sum(flat) / len(flat))
    assert metrics["eval_exit_layer_counts"] == [flat.count(layer) for layer in (1, 2, 3, 4)]
    assert metrics["eval_gen_len"] == pytest.approx(len(flat) / len(TEXTS))


def test_a_second_evaluation_starts_from_zero(trainer):
    trainer.generation = GenerationSettings(policy=ExitPolicy(static_layer=1))
    trainer.evaluate()
    trainer.generation = GenerationSettings(policy=ExitPolicy(static_layer=3))
    assert trainer.evaluate()["eval_block_avg"] == 3


def test_without_a_policy_transformers_decodes_and_counts_are_full_depth(trainer):
    metrics = trainer.evaluate()
    tokens, _ = zip(*decode_alone(trainer, ExitPolicy()), strict=True)
    assert metrics["eval_predictions"] == list(tokens)
    assert metrics["eval_block_avg"] == 4


@pytest.mark.parametrize("warm_up", [False, True])
@pytest.mark.parametrize("streams", [False, True], ids=["fixed batches", "stream"])
def test_the_clock_holds_generation_only(trainer, monkeypatch, warm_up, streams):
    """A clock that decoding advances by one second a token, and metrics by 100: what it shows is what was
    timed."""
    now, rows = [0.0], []
    compute_metrics, tokens = trainer.compute_metrics, Scores.tokens

    def one_second_each(self):
        result = tokens(self)
        rows.append(len(result))
        now[0] += len(result)
        return result

    def slow_metrics(rows):
        now[0] += 100.0
        return compute_metrics(rows)

    monkeypatch.setattr(generation.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Scores, "tokens", one_second_each)
    monkeypatch.setattr("early_exit.decoding.engine.serves", lambda *_: False)  # in Python
    trainer.compute_metrics = slow_metrics
    trainer.generation = GenerationSettings(policy=ExitPolicy(static_layer=1), warm_up=warm_up)
    if not streams:
        monkeypatch.setattr(stream, "plain_greedy", lambda model, options: None)
    metrics = trainer.evaluate()
    new = sum(map(len, metrics["eval_predictions"]))
    assert sum(rows) == new + warm_up * sum(map(len, metrics["eval_predictions"][:2]))
    assert max(rows) == 2
    assert metrics["eval_tokens_per_second"] == pytest.approx(1)
    for name in ("", "_p10", "_p90"):
        assert metrics[f"eval_ms_per_token{name}"] == pytest.approx(1000)


def test_without_generation_the_loss_is_the_joint_one(trainer):
    trainer.args.predict_with_generate = False
    with torch.no_grad():
        batch = trainer.data_collator([trainer.eval_dataset[index] for index in range(5)])
        expected = trainer.model(**batch, exit_loss="weighted_ce").loss.item()
    trainer.args.per_device_eval_batch_size = 5
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
