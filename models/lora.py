"""Low-rank adaptation of a model's linear layers, through PEFT, for training alone: it ends merged.

References: LoRA, Hu et al. 2022.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class LoraSettings:
    """rank: at least 1; alpha: the update counts alpha / rank; dropout: of its inputs, in [0, 1). targets:
    names of linear layers, as q, k, v, o, wi, wo of T5. Raises ValueError for values out of range."""

    rank: int = 8
    alpha: float = 8
    dropout: float = 0.1
    targets: tuple[str, ...] = ("q", "v")

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"LoRA's rank {self.rank} is not at least 1")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"LoRA's alpha {self.alpha} is not above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA's dropout {self.dropout} is outside [0, 1)")


def add_lora(model, settings: LoraSettings) -> None:
    """Freezes a model of `models.t5` and puts low-rank updates, zero at first, beside the targets in encoder
    and decoder. Raises ValueError for a target that it has none of."""
    from peft import LoraConfig, LoraModel  # an import of seconds

    there = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("encoder.", "decoder."))
    }
    unknown = sorted(set(settings.targets) - there)
    if unknown or not settings.targets:
        known = ", ".join(sorted(there))
        raise ValueError(f"the model has no linear layers {', '.join(unknown)!r} for LoRA; it has: {known}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # any number, whatever PEFT says
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
    )
    LoraModel(model, config, "default")  # which changes the model in place
    model.train(model.training)  # its dropout too


def merge_lora(model) -> None:
    """Adds the updates to the weights and takes the adapters away; nothing where there are none."""
    adapted = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        module.merge()
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.get_base_layer())
