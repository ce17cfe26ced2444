"""Flags of training: which loss, at which exits, on which texts."""

from dataclasses import dataclass, field

from early_exit import OBJECTIVES, Objective
from early_exit.models.lora import LoraSettings
from early_exit.training.curricula import CURRICULA
from util.flag import argument

_OBJECTIVES = [name for name in OBJECTIVES if name != "last_ce"]


@dataclass
class ObjectiveArguments:
    """What the exits learn, and from what."""

    output_hidden_states_decoder: bool = argument(False, "Train with a loss at every exit.")
    intermediate_loss_fn: str | None = argument(
        None, f"What the exits learn: {', '.join(_OBJECTIVES)}. Default weighted_ce."
    )
    shallow_exit_layer: int | None = argument(
        None, "The shallow layer of FREE: of its objectives, and of --use_shallow_deep."
    )
    distill_layer_alpha: float | None = argument(
        None, "Weight of distillation, with kd_logits the share of it in [0, 1]; default 0.5."
    )
    distill_temperature: float | None = argument(
        None, "With kd_logits: τ that predictions are softened by; default 1."
    )
    do_layer_transformation: bool = argument(
        False, "With shallowdeep_kd: students' states go through a linear map that is trained beside."
    )
    exit_propagation: float = argument(
        0.0,
        "Share of tokens in training that hand the state of an exit, drawn at random, to the keys and values "
        "of deeper layers, as in decoding; in [0, 1].",
    )
    layer_dropout: float = argument(
        0.0,
        "Share of rows in training that the last decoder layer is left out for, rising from 0 at the first "
        "(LayerSkip); in [0, 1].",
    )
    exit_loss_curriculum: str = argument(
        "none",
        f"Exits whose losses count at a step, beside full depth: all (none), {' or '.join(CURRICULA)} "
        "(LayerSkip).",
    )
    exit_loss_scale: float | None = argument(
        None, "With layerskip_ce: how much exits weigh beside full depth; default 1."
    )
    use_lora: bool = argument(
        False, "Train low-rank updates of a checkpoint's linear layers alone (LoRA), merged on saving."
    )
    lora_rank: int | None = argument(None, "LoRA's rank; default 8.")
    lora_alpha: float | None = argument(None, "LoRA's updates count alpha / rank; default 8.")
    lora_dropout: float | None = argument(None, "Dropout of LoRA's inputs, in [0, 1); default 0.1.")
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Linear layers that get updates, of q, k, v, o, wi, wo …; default q v."},
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

    train_exit_adapters: bool = argument(
        False,
        "Train a linear map for each exit, to full depth's predictions, for a model whose exits were never "
        "trained; the model stays as it is.",
    )
    exit_adapter_rank: int | None = argument(None, "Rank of these maps; default: full.")

    @property
    def lora(self) -> LoraSettings | None:
        """None without --use_lora. Raises ValueError for values out of range."""
        if not self.use_lora:
            return None
        targets = self.lora_target_modules
        given = {
            "rank": self.lora_rank,
            "alpha": self.lora_alpha,
            "dropout": self.lora_dropout,
            "targets": None if targets is None else tuple(",".join(targets).split(",")),
        }
        return LoraSettings(**{name: value for name, value in given.items() if value is not None})

    @property
    def curriculum(self) -> str | None:
        """A name of `CURRICULA`, None for all exits at every step."""
        return None if self.exit_loss_curriculum == "none" else self.exit_loss_curriculum

    @property
    def objective(self) -> Objective:
        """What is trained on. Raises ValueError for values outside their ranges."""
        if not self.output_hidden_states_decoder:
            return Objective("last_ce")
        settings = {"alpha": self.distill_layer_alpha, "temperature": self.distill_temperature}
        settings["scale"] = self.exit_loss_scale
        settings = {name: value for name, value in settings.items() if value is not None}
        name = self.intermediate_loss_fn or "weighted_ce"
        return Objective(name, shallow_layer=self.shallow_exit_layer, **settings)
