"""`--resume_from_checkpoint`: what is asked for, and whether training can go on from it."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import Seq2SeqTrainingArguments

from util.errors import UsageError
from util.optimizer import small_optimizer
from util.run_folder import CHECKPOINT_FILES, STATE_FILE


def resumption(training: Seq2SeqTrainingArguments) -> Path | bool | None:
    """A checkpoint's folder; True for the last one in the output folder, False to start anew, None where
    nothing is said: a run that was interrupted then goes on."""
    asked = training.resume_from_checkpoint
    if asked is None or isinstance(asked, bool):
        return asked
    known = {"true": True, "false": False}
    return known.get(asked.lower(), Path(asked))


def check_checkpoint(
    folder: Path, model, trained: int, rates: set[float], training: Seq2SeqTrainingArguments
) -> None:
    """Raises UsageError where training of a model cannot go on from a folder as `training` says.

    trained: the number of parameters, as tensors, that are trained; rates: the run's learning rates for them.
    """
    refuse = f"--resume_from_checkpoint {folder}: "
    if not folder.is_dir():
        raise UsageError(refuse + "no such folder")
    missing = [name for name in CHECKPOINT_FILES if not (folder / name).is_file()]
    if missing:
        raise UsageError(refuse + f"not a checkpoint of a training run, which holds {missing[0]}")
    try:
        step = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["global_step"]
        shapes = _shapes(folder)
        groups = torch.load(folder / "optimizer.pt", map_location="cpu", mmap=True, weights_only=True)[
            "param_groups"
        ]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UsageError(refuse + f"cannot be read: {' '.join(str(error).split())}") from error
    if 0 < training.max_steps <= step:
        raise UsageError(refuse + f"it has reached step {step} of --max_steps {training.max_steps}")
    _check_shapes(refuse, shapes, model)
    held = sum(len(group["params"]) for group in groups)
    if held != trained:
        raise UsageError(refuse + f"its optimizer trained {held} weights, this run trains {trained}")
    _check_optimizer(refuse, groups, rates, training)


def _check_optimizer(refuse: str, groups: list[dict], rates: set[float], training) -> None:
    """A checkpoint brings its optimizer's settings along: other ones would have no effect."""
    optimizer = small_optimizer(training)
    asked = (
        {}
        if optimizer is None
        else {name: {_comparable(value)} for name, value in optimizer.defaults.items()}
    )
    asked |= {"weight_decay": {training.weight_decay}, "initial_lr": rates}
    asked.pop("lr", None)  # which the schedule has moved
    for name, wanted in asked.items():
        there = {_comparable(group[name]) for group in groups if name in group}
        unnoted = name == "initial_lr" and not there  # some schedules have no need of it
        if not unnoted and not wanted <= there:
            raise UsageError(
                refuse + f"its optimizer goes on as it was, with {name} {_listed(there)}; this run asks for "
                f"{_listed(wanted)} (--optim {training.optim.value})"
            )


def _comparable(value):
    return tuple(value) if isinstance(value, list) else value


def _listed(values: set) -> str:
    return ", ".join(sorted(map(str, values))) or "missing"


def _shapes(folder: Path) -> dict[str, tuple]:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise OSError("it holds no model.safetensors")
    shapes = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return shapes


def _check_shapes(refuse: str, shapes: dict[str, tuple], model) -> None:
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    for name in sorted(set(shapes) | set(expected) - tied):
        if shapes.get(name) != expected.get(name):
            there, here = shapes.get(name, "missing"), expected.get(name, "missing")
            raise UsageError(refuse + f"another model's: {name} is {there} there and {here} here")
