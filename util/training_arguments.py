"""Flags of training: which loss, at which exits, on which texts."""

from dataclasses import dataclass

from util.flag import argument


@dataclass
class ObjectiveArguments:
    """What the exits learn, and from what."""

    output_hidden_states_decoder: bool = argument(False, "Train with a loss at every exit.")
    intermediate_loss_fn: str | None = argument(
        None, "Weights of the exits' losses: weighted_ce (i / sum, the default) or ce (equal)."
    )
    train_on_own_text: bool = argument(
        False, "Train on the texts that the model itself, at full depth, writes for the training documents."
    )
    own_text_file: str | None = argument(
        None, "Where these texts are kept; default own_texts.jsonl in the output folder."
    )
    own_text_gold_share: float = argument(
        0.0, "Share of the training texts that are the data's own, drawn at random; in [0, 1)."
    )
    unlabelled_file: str | None = argument(
        None, "Further documents to write texts for: .json, .jsonl or .csv. They need no summaries."
    )

    @property
    def layer_weighting(self) -> str:
        """Name of the training loss's weighting over exits (`early_exit.LAYER_WEIGHTINGS`)."""
        if not self.output_hidden_states_decoder:
            return "last_ce"
        return self.intermediate_loss_fn or "weighted_ce"
