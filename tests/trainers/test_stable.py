"""Training keeps float32 weights whatever a model comes in, and stops at numbers that are not finite."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Seq2SeqTrainingArguments

from tests.tiny import tiny_model
from trainers.heads import HeadTrainer
from trainers.joint import JointTrainer

ROWS = [
    {"input_ids": [2 + row, 3, 4 + row, 1], "attention_mask": [1] * 4, "labels": [5, 6 + row, 1]}
    for row in range(16)
]
# Below the rounding of half types for weights around 1.
SMALL_STEPS = 1e-5


def trainer_of(kind, model, folder, learning_rate=SMALL_STEPS, model_init=None, **more):
    arguments = {
        "max_steps": 3, "per_device_train_batch_size": 4, "save_strategy": "no",
        "lr_scheduler_type": "constant", "use_cpu": True, "report_to": "none", "disable_tqdm": True, **more,
    }  # fmt: skip
    args = Seq2SeqTrainingArguments(output_dir=str(folder), learning_rate=learning_rate, **arguments)
    options = {"heads": ["MLP", "transformer_MLP_64"]} if kind is HeadTrainer else {}
    options |= {"model": model} if model_init is None else {"model_init": model_init}
    collate = lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
    return kind(args=args, train_dataset=ROWS, data_collator=collate, **options)


def half(dtype):
    """A model whose exit heads are in a half type as well."""
    return tiny_model().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bf16", [False, True])
def test_small_steps_move_all_weights_of_a_half_model(dtype, bf16, tmp_path):
    model = half(dtype)
    before = {name: weight.float().clone() for name, weight in model.named_parameters()}
    trainer = trainer_of(JointTrainer, model, tmp_path, bf16=bf16, save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    for folder in (tmp_path / "saved", tmp_path / "checkpoint-3"):
        after = load_file(folder / "model.safetensors")
        assert all(weight.dtype in (torch.float32, torch.int64) for weight in after.values())
        for name, weight in after.items():
            assert torch.isfinite(weight).all()
            # Short texts have few distances.
            if name in before and not name.startswith("exit_heads.") and "relative" not in name:
                assert (before[name] != weight).float().mean() > 0.9, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bf16", [False, True])
def test_small_steps_move_all_weights_of_half_heads(dtype, bf16, tmp_path):
    model = half(dtype)
    before = {name: weight.float().clone() for name, weight in model.named_parameters()}
    trainer = trainer_of(HeadTrainer, model, tmp_path, bf16=bf16, max_grad_norm=0)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    after = load_file(tmp_path / "saved" / "model.safetensors")
    for name, weight in after.items():
        if name not in before:
            continue
        trained = name.startswith(("exit_heads.MLP.", "exit_heads.transformer_MLP_64."))
        assert weight.dtype == torch.float32
        assert torch.isfinite(weight).all()
        moved = (before[name] != weight).float().mean()
        assert moved > 0.4 if trained else moved == 0, name  # a head's ReLU is off for some of its weights


def test_half_training_is_float32_training_from_the_rounded_weights(tmp_path):
    trained = []
    for model in (half(torch.float16), half(torch.float16).float()):
        trainer_of(JointTrainer, model, tmp_path).train()
        trained.append(model.state_dict())
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name


def test_a_model_made_by_the_trainer_is_trained_in_float32(tmp_path):
    trainer = trainer_of(JointTrainer, None, tmp_path, model_init=lambda: half(torch.bfloat16))
    trainer.train()
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}


class _Fault:
    """Spoils the loss of one step."""

    def __init__(self, trainer, step, spoil):
        self._trainer, self._step, self._spoil = trainer, step, spoil
        self._compute, trainer.compute_loss = trainer.compute_loss, self

    def __call__(self, model, *args, **kwargs):
        loss = self._compute(model, *args, **kwargs)
        return self._spoil(model, loss) if self._trainer.state.global_step == self._step else loss


def _zero_with_bad_gradient(model, loss):
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    return loss + 0 * (weight - weight).sum().sqrt()  # 0 · ∞


def _zero_with_huge_gradient(model, loss):
    """All gradients finite, their norm beyond float32."""
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    return loss + 1e30 * (weight - weight.detach()).sum()


FAULTS = {
    "nan loss": (lambda model, loss: loss * float("nan"), "the loss is nan"),
    "infinite loss": (lambda model, loss: loss + float("inf"), "the loss is inf"),
    "gradient": (_zero_with_bad_gradient, "gradient is nan"),
    "huge gradient": (_zero_with_huge_gradient, "gradient is inf"),
}


@pytest.mark.parametrize("kind", [JointTrainer, HeadTrainer])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("max_grad_norm", [0, 1])
def test_training_stops_before_a_bad_step(kind, fault, max_grad_norm, tmp_path):
    spoil, message = FAULTS[fault]
    model = tiny_model()
    trainer = trainer_of(
        kind, model, tmp_path, max_grad_norm=max_grad_norm, max_steps=5, save_strategy="steps", save_steps=1
    )
    _Fault(trainer, 2, spoil)
    with pytest.raises(ValueError, match=f"stopped at step 3: .*{message}") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_a_bad_micro_batch_stops_training(tmp_path):
    trainer = trainer_of(JointTrainer, tiny_model(), tmp_path, gradient_accumulation_steps=2)
    _Fault(trainer, 1, lambda model, loss: loss * float("nan"))
    with pytest.raises(ValueError, match="stopped at step 2"):
        trainer.train()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = tiny_model()
    trainer = trainer_of(JointTrainer, model, tmp_path)
    with torch.no_grad():
        model.decoder.final_layer_norm.weight[3] = float("inf")
    with pytest.raises(ValueError, match=r"final_layer_norm\.weight holds numbers that are not finite"):
        trainer.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("kind", [JointTrainer, HeadTrainer])
def test_what_the_losses_do_not_serve_is_refused_by_name(kind, tmp_path):
    with pytest.raises(ValueError, match=r"label_smoothing_factor 0\.1 is not supported"):
        trainer_of(kind, tiny_model(), tmp_path, label_smoothing_factor=0.1)
    trainer = trainer_of(kind, tiny_model(), tmp_path)
    trainer.accelerator.state._mixed_precision = "fp16"
    with pytest.raises(ValueError, match="mixed precision fp16 is not supported"):
        trainer.train()
