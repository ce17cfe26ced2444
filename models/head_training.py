"""The training pass of exit heads: a frozen model runs once, all heads read its states."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from early_exit.head_losses import head_cross_entropy, labelled_layers

_LOGITS_AT_ONCE = 2**25


@dataclass
class HeadLossOutput(ModelOutput):
    """loss: scalar, the sum of the heads' losses; head_losses: [heads], mean over tokens, no gradient."""

    loss: Tensor | None = None
    head_losses: Tensor | None = None


@dataclass(frozen=True)
class Agreement:
    """states: L − 1 tensors [rows, length, d_model], raw outputs of the layers below full depth; agrees:
    [L − 1, rows, length] bool, whether a layer's likeliest token is full depth's; kept: [rows, length] bool,
    False where padded."""

    states: list[Tensor]
    agrees: Tensor
    kept: Tensor


@torch.no_grad()
def frozen_pass(model, input_ids: Tensor, attention_mask: Tensor, labels: Tensor):
    """Runs a model of `models.t5` over its reference texts: labels [rows, length], −100 where padded. Returns
    the decoder's outputs with all hidden states."""
    source = model.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    return model.decoder(
        input_ids=model._shift_right(labels),
        encoder_hidden_states=source,
        encoder_attention_mask=attention_mask,
        use_cache=False,
        output_hidden_states=True,
    )


@torch.no_grad()
def agreement_with_full_depth(model, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Agreement:
    """Runs a model as `frozen_pass` does; its exits read what adapters give, where it has them."""
    outputs = frozen_pass(model, input_ids, attention_mask, labels)
    states = list(outputs.hidden_states[1:-1])  # without the embeddings and the last, which is normed
    tokens = [_likeliest(model.lm_head.weight, inputs) for inputs in model.head_inputs(outputs)]
    return Agreement(states, torch.stack([own == tokens[-1] for own in tokens[:-1]]), labels != -100)


def _likeliest(head: Tensor, inputs: Tensor) -> Tensor:
    """Argmax of the logits. [rows, length, d_model] → [rows, length] int64; few logits exist at a time."""
    flat = inputs.flatten(0, 1)
    tokens = [(chunk @ head.T).argmax(-1) for chunk in flat.split(max(1, _LOGITS_AT_ONCE // len(head)))]
    return torch.cat(tokens).view(inputs.shape[:2])


def head_log_odds(model, name: str, states: Sequence[Tensor]) -> Tensor:
    """`ExitHeads.log_odds` at all layers. states: L − 1 tensors [rows, length, d_model]; → [L − 1, rows,
    length]."""
    heads = model.exit_heads[name]
    return torch.stack([heads.log_odds(layer, state) for layer, state in enumerate(states, start=1)])


def head_training_loss(
    model, names: Sequence[str], loss: str, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None
) -> HeadLossOutput:
    """The heads' losses over one batch, summed over tokens and divided by `num_items_in_batch` (by the number
    of tokens if None), and, while gradients are on, the counts of the training set that the heads keep.

    names: of heads that the model has; loss: of `early_exit.head_losses.HEAD_LOSSES`.
    """
    seen = agreement_with_full_depth(model, **inputs)
    agrees = seen.agrees[:, seen.kept]  # [L − 1, tokens]
    labelled = labelled_layers(loss, agrees)
    if torch.is_grad_enabled():
        counts = torch.stack([(agrees & labelled).sum(1), labelled.sum(1)])  # [2, L − 1]
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        for name in names:
            model.exit_heads[name].agreed += counts[0]
            model.exit_heads[name].seen += counts[1]
    log_odds = [head_log_odds(model, name, seen.states)[:, seen.kept] for name in names]
    losses = torch.stack([head_cross_entropy(each, agrees, labelled) for each in log_odds])  # [heads]
    tokens = agrees.shape[1] if num_items_in_batch is None else num_items_in_batch
    return HeadLossOutput(loss=losses.sum() / tokens, head_losses=losses.detach() / max(1, agrees.shape[1]))
