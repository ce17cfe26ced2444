"""The training pass over all exits: one run of the model, one loss over the states of its decoder layers."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from early_exit.training.objectives import Objective, objective_loss


@dataclass
class JointLossOutput(ModelOutput):
    """loss: scalar; exit_losses: [L], mean cross-entropy of every exit whose logits are needed, NaN for the
    others."""

    loss: Tensor | None = None
    exit_losses: Tensor | None = None


def joint_training_loss(
    model, objective: Objective, inputs: dict, num_items_in_batch: Tensor | int | None
) -> JointLossOutput:
    """The loss of an objective over a batch, summed over tokens and divided by `num_items_in_batch` (by the
    number of unmasked labels if None).

    inputs: of transformers' forward, by name.
    """
    labels = inputs["labels"]
    loss, exit_losses = objective_loss(
        objective,
        [state.flatten(0, 1) for state in _exit_states(model, inputs)],  # each [batch * length, d_model]
        model.lm_head.weight,
        labels.flatten(),
        scale=model.head_scale,
        transform=model.exit_transformation,
    )
    tokens = (labels != -100).sum().clamp(min=1)
    return JointLossOutput(
        loss=loss / (tokens if num_items_in_batch is None else num_items_in_batch),
        exit_losses=exit_losses / tokens,
    )


def _exit_states(model, inputs: dict) -> list[Tensor]:
    """Inputs of the LM head at every exit, L tensors [batch, length, d_model]."""
    attention_mask, encoder_outputs = inputs.get("attention_mask"), inputs.get("encoder_outputs")
    if encoder_outputs is None:
        sources = {name: inputs.get(name) for name in ("input_ids", "inputs_embeds")}
        encoder_outputs = model.encoder(attention_mask=attention_mask, **sources)
    decoder_input_ids = inputs.get("decoder_input_ids")
    embeddings = inputs.get("decoder_inputs_embeds")
    if decoder_input_ids is None and embeddings is None:
        decoder_input_ids = model._shift_right(inputs["labels"])
    outputs = model.decoder(
        input_ids=decoder_input_ids,
        inputs_embeds=embeddings,
        attention_mask=inputs.get("decoder_attention_mask"),
        encoder_hidden_states=encoder_outputs[0],
        encoder_attention_mask=attention_mask,
        use_cache=False,
        output_hidden_states=True,
    )
    return model.head_inputs(outputs)
