"""The training pass over all exits: one run of the model, one loss over the states of its decoder layers."""

from dataclasses import dataclass, field

from torch import Tensor
from transformers.utils import ModelOutput

from early_exit.models.perturbed_decoder import Perturbation, perturbed_states
from early_exit.training.objectives import Objective, objective_loss


@dataclass(frozen=True)
class JointTraining:
    """What exits learn, and what is done to the decoder while they do."""

    objective: Objective
    perturbation: Perturbation = field(default_factory=Perturbation)

    @classmethod
    def of(cls, asked: "JointTraining | Objective | str") -> "JointTraining":
        """An objective alone, or by its name, without a perturbation."""
        if isinstance(asked, JointTraining):
            return asked
        return cls(Objective(asked) if isinstance(asked, str) else asked)


@dataclass
class JointLossOutput(ModelOutput):
    """loss: scalar; exit_losses: [L], mean cross-entropy of every exit whose logits are needed, NaN for the
    others."""

    loss: Tensor | None = None
    exit_losses: Tensor | None = None


def joint_training_loss(
    model, training: JointTraining, inputs: dict, num_items_in_batch: Tensor | int | None
) -> JointLossOutput:
    """The loss of an objective over a batch, summed over tokens and divided by `num_items_in_batch` (by the
    number of unmasked labels if None).

    inputs: of transformers' forward, by name. The decoder is perturbed where the model is in training mode.
    """
    labels = inputs["labels"]
    perturbation = training.perturbation if model.training else Perturbation()
    states = _exit_states(model, inputs, perturbation)
    loss, exit_losses = objective_loss(
        training.objective,
        [state.flatten(0, 1) for state in states],  # each [batch * length, d_model]
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


def _exit_states(model, inputs: dict, perturbation: Perturbation) -> list[Tensor]:
    """Inputs of the LM head at every exit, L tensors [batch, length, d_model]."""
    attention_mask, encoder_outputs = inputs.get("attention_mask"), inputs.get("encoder_outputs")
    if encoder_outputs is None:
        sources = {name: inputs.get(name) for name in ("input_ids", "inputs_embeds")}
        encoder_outputs = model.encoder(attention_mask=attention_mask, **sources)
    decoder_input_ids = inputs.get("decoder_input_ids")
    embeddings = inputs.get("decoder_inputs_embeds")
    if decoder_input_ids is None and embeddings is None:
        decoder_input_ids = model._shift_right(inputs["labels"])
    if perturbation:
        if inputs.get("decoder_attention_mask") is not None:
            raise ValueError("a perturbed decoder cannot take decoder_attention_mask")
        if embeddings is None:
            embeddings = model.decoder.embed_tokens(decoder_input_ids)
        rows, length, _ = embeddings.shape
        exits = perturbation.exits(rows, length, model.num_exits, embeddings.device)
        kept = perturbation.kept(rows, model.num_exits, embeddings.device)
        states = perturbed_states(model, embeddings, encoder_outputs[0], attention_mask, exits, kept)
        return [model.exit_input(state) for state in states]
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
