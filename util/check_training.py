"""transformers' training arguments: what has no effect here is refused, and what can be checked is checked
before anything is loaded or written."""

import math
import os
from collections.abc import Iterable

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations

from util.errors import UsageError
from util.optimizer import small_optimizer
from util.resume import resumption
from util.training_flags import REFUSED

# Lowest and highest value allowed.
_RANGES = {
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "generation_num_beams": (1, math.inf),
    "num_train_epochs": (0, math.inf),
    "save_steps": (0, math.inf),
    "save_total_limit": (1, math.inf),
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
}


def check_training(
    training: Seq2SeqTrainingArguments, calibrates: bool, trains_heads: bool, exits: bool
) -> None:
    """Raises UsageError for values that have no effect here, are out of range or contradict each other.

    calibrates, trains_heads: what the run is for; exits: whether it decodes with this project's engine.
    """
    _check_refused(training)
    for name, (low, high) in _RANGES.items():
        value = getattr(training, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name} {value} is outside {low} to {high}")
    if training.max_steps == 0 or training.max_steps < -1:
        raise UsageError(f"--max_steps {training.max_steps} is outside 1 to inf, and not -1, for epochs")
    _check_types(training, calibrates, trains_heads, exits)
    if training.prediction_loss_only and training.predict_with_generate:
        raise UsageError("--prediction_loss_only and --predict_with_generate contradict each other; give one")
    if resumption(training) and not training.do_train:
        raise UsageError("--resume_from_checkpoint has no effect without --do_train")
    _check_reports(training)
    if training.generation_config is not None:
        try:
            Seq2SeqTrainer.load_generation_config(training.generation_config)
        except (OSError, ValueError) as error:
            raise UsageError(f"--generation_config: {_first_line(error)}") from error
    if training.do_train:
        _check_steps(training, trains_heads)
        _check_optimizer(training, trains_heads)
    elif training.torch_compile:
        raise UsageError("--torch_compile has no effect without --do_train: generation is not compiled")


def check_best_metric(training: Seq2SeqTrainingArguments, measured: Iterable[str]) -> None:
    """Raises UsageError where a schedule, or the choice of the best model, follows a metric that evaluations
    in training will not give. measured: the metrics of an evaluation by generation."""
    metric = training.metric_for_best_model
    if metric is None or not training.do_train:
        return
    if training.eval_strategy == "no":
        raise UsageError(
            "--metric_for_best_model, --load_best_model_at_end and --save_strategy best need evaluations"
            " in training: give --eval_strategy"
        )
    there = sorted(measured) if training.predict_with_generate else ["loss"]
    if metric.removeprefix("eval_") not in there:
        why = "with" if training.predict_with_generate else "without"
        raise UsageError(
            f"--metric_for_best_model {metric!r} is not measured {why} --predict_with_generate; there are: "
            f"{', '.join(there)}"
        )


def _check_refused(training: Seq2SeqTrainingArguments) -> None:
    default = Seq2SeqTrainingArguments(output_dir=training.output_dir, use_cpu=training.use_cpu)
    for name, why in REFUSED.items():
        value = getattr(training, name)
        asks_for_nothing = value is False and getattr(default, name) is None
        if value != getattr(default, name) and not asks_for_nothing:
            raise UsageError(f"--{name} {value} {why}")
    sharded = [
        name for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED") if _is_true(os.environ.get(name))
    ]
    if sharded:
        raise UsageError(f"{sharded[0]}={os.environ[sharded[0]]} {REFUSED['fsdp']}")
    if training.local_rank not in (-1, int(os.environ.get("LOCAL_RANK", -1))):
        raise UsageError(
            f"--local_rank {training.local_rank} has no effect: start the processes with torchrun"
        )


def _is_true(text: str | None) -> bool:
    return (text or "").lower() in ("1", "true", "yes", "y", "t", "on")


def _check_types(
    training: Seq2SeqTrainingArguments, calibrates: bool, trains_heads: bool, exits: bool
) -> None:
    if training.fp16 or training.fp16_full_eval:
        flag, instead = ("fp16", "bf16") if training.fp16 else ("fp16_full_eval", "bf16_full_eval")
        raise UsageError(f"--{flag} is not supported: T5 overflows in it; use --{instead}")
    mixed = training.mixed_precision
    if mixed not in ("no", "bf16"):
        raise UsageError(f"ACCELERATE_MIXED_PRECISION={mixed} is not supported: T5 overflows in it; use bf16")
    if training.bf16 and not training.do_train and (training.predict_with_generate or calibrates):
        raise UsageError(
            "--bf16 has no effect without --do_train: use --bf16_full_eval, or --engine_precision bfloat16"
        )
    if training.bf16_full_eval and (calibrates or exits):
        raise UsageError("--bf16_full_eval is not for decoding with exits: use --engine_precision bfloat16")
    if training.bf16_full_eval and trains_heads:
        raise UsageError("--bf16_full_eval is not for exit heads and adapters, which read states in float32")


def _check_reports(training: Seq2SeqTrainingArguments) -> None:
    there = get_available_reporting_integrations()
    missing = [name for name in training.report_to if name not in there]
    if missing:
        raise UsageError(
            f"--report_to {missing[0]!r} is unknown or not installed; there are: {', '.join(there) or 'none'}"
        )
    if "tpu_metrics_debug" in training.debug:
        raise UsageError("--debug tpu_metrics_debug is not supported: there is no TPU here")


def _check_steps(training: Seq2SeqTrainingArguments, trains_heads: bool) -> None:
    if training.eval_on_start and not training.do_eval:
        raise UsageError("--eval_on_start needs --do_eval or --eval_strategy")
    if training.activation_checkpointing and trains_heads:
        raise UsageError(
            "--activation_checkpointing has no effect with --train_meta_cm_head: the model is frozen"
        )
    layerwise = ("galore", "apollo")  # the optimizers that read it
    if training.optim_target_modules is not None and not training.optim.startswith(layerwise):
        raise UsageError(f"--optim_target_modules has no effect with --optim {training.optim.value}")
    if isinstance(training.lr_scheduler_kwargs, str):
        raise UsageError(f"--lr_scheduler_kwargs {training.lr_scheduler_kwargs!r} is not a JSON object")


def _check_optimizer(training: Seq2SeqTrainingArguments, trains_heads: bool) -> None:
    """Makes the optimizer and the schedule, for a model of one weight."""
    what = f"--optim {training.optim.value}"
    try:
        optimizer = small_optimizer(training)
        if trains_heads and optimizer is None:
            raise ValueError("is not for --train_meta_cm_head, whose heads have rates of their own")
        optimizer = optimizer or torch.optim.SGD(torch.nn.Linear(1, 1).parameters())
        what = f"--lr_scheduler_type {training.lr_scheduler_type.value}"
        get_scheduler(
            training.lr_scheduler_type,
            optimizer,
            training.get_warmup_steps(100),
            100,
            training.lr_scheduler_kwargs,
        )
    except Exception as error:  # of each optimizer and schedule its own
        raise UsageError(f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
