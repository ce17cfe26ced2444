"""The optimizer that training arguments ask for, made for one weight: to check it before there is a model."""

import torch
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

# Settings that transformers passes to optimizers that want the model itself.
_OF_A_MODEL = {"params", "model", "optimizer_dict"}


def small_optimizer(training: Seq2SeqTrainingArguments) -> torch.optim.Optimizer | None:
    """None for an optimizer that needs the model to be made. Raises what it raises about its settings."""
    model = torch.nn.Linear(1, 1)
    make, settings = Seq2SeqTrainer.get_optimizer_cls_and_kwargs(training, model)
    if not isinstance(make, type) or _OF_A_MODEL & set(settings):
        return None
    return make(model.parameters(), **settings)
