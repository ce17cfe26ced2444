"""What exits may add to a model: heads, adapters, a ranking of tokens, a map for training."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from early_exit.models.exit_adapters import ExitAdapters, new_exit_adapters
from early_exit.models.exit_heads import ExitHeads, backbone_fingerprints, fingerprint, new_exit_heads
from early_exit.models.family import Family
from early_exit.models.token_ranking import rank_tokens


class ExitModules(Family):
    """Modules and buffers that exits add to a T5-family model, each where its configuration says so.

    exit_heads: the trained confidence classifiers, by name; `config.exit_heads` says of each how it was made.
    exit_adapters: what the exits' states go through, where they were not trained with the model, or None.
    """

    token_ranking: Tensor | None

    def __init__(self, config, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        names = getattr(config, "exit_heads", None) or {}
        self.exit_heads = nn.ModuleDict({name: new_exit_heads(config, name) for name in names})
        self.exit_adapters: ExitAdapters | None = None
        if getattr(config, "exit_adapters", None):
            self.exit_adapters = new_exit_adapters(config)
        ranked = getattr(config, "token_ranking", None)
        self.register_buffer("token_ranking", None if ranked is None else torch.full((ranked,), -1))
        self.exit_transformation: nn.Linear | None = None
        if getattr(config, "exit_transformation", False):
            self.add_exit_transformation()

    @property
    def num_exits(self) -> int:
        """L, the number of decoder layers."""
        return len(self.decoder.block)

    def add_exit_transformation(self) -> None:
        """A linear map, the identity at first, that students' states go through where hidden states are
        distilled, see `early_exit.training.hidden_states`; for training alone: drop it afterwards."""
        self.config.exit_transformation = True
        self.exit_transformation = nn.Linear(self.config.d_model, self.config.d_model).to(self.device)
        with torch.no_grad():
            self.exit_transformation.weight.copy_(torch.eye(self.config.d_model))
            self.exit_transformation.bias.zero_()

    def drop_exit_transformation(self) -> None:
        """Leaves the model as it decodes."""
        self.exit_transformation = None
        if hasattr(self.config, "exit_transformation"):
            del self.config.exit_transformation

    def rank_tokens(self, texts: Iterable[Iterable[int]]) -> None:
        """Ranks the vocabulary by frequency in some texts, for shortlists; see `models.token_ranking`."""
        ranking = rank_tokens(texts, self.lm_head.weight.shape[0])
        self.config.token_ranking = len(ranking)
        self.token_ranking = ranking.to(self.device)

    def add_exit_heads(self, name: str, shared: bool = False) -> ExitHeads:
        """New, untrained heads under a name of `early_exit.heads`, in the place of any that were there.

        shared: one head for all layers. Raises ValueError for a name that is none, and for a decoder of one
        layer, which has no exit.
        """
        if self.num_exits < 2:
            raise ValueError(f"exit head {name!r} needs an exit below full depth; the decoder has one layer")
        made = {"shared": shared, "backbone": backbone_fingerprints(self)}
        config = copy.copy(self.config)  # the model's own stays as it is where this fails
        config.exit_heads = {**(getattr(config, "exit_heads", None) or {}), name: made}
        heads = new_exit_heads(config, name).to(self.device)
        self.config.exit_heads, self.exit_heads[name] = config.exit_heads, heads
        return heads

    def drop_exit_heads(self, name: str) -> None:
        """Leaves the model as it was without the heads of a name."""
        del self.exit_heads[name]
        self.config.exit_heads = {key: own for key, own in self.config.exit_heads.items() if key != name}

    def check_exit_heads(self, name: str) -> None:
        """Raises ValueError where the model has no heads of that name, or has them from another model."""
        if name not in self.exit_heads:
            there = ", ".join(sorted(self.exit_heads)) or "none"
            raise ValueError(f"the model has no exit head {name!r}; it has: {there}")
        backbone = self.config.exit_heads[name]["backbone"]  # text in older checkpoints
        if fingerprint(self) not in ([backbone] if isinstance(backbone, str) else backbone):
            raise ValueError(f"exit head {name!r} was trained on a model with other weights: train it again")

    def add_exit_adapters(self, rank: int | None = None) -> ExitAdapters:
        """New adapters, which change nothing before they are trained, in the place of any that were there.

        rank: of each exit's map, 1 to d_model; None for a full one. Raises ValueError for another rank.
        """
        config = copy.copy(self.config)
        config.exit_adapters = {"rank": rank, "backbone": backbone_fingerprints(self, adapters=False)}
        adapters = new_exit_adapters(config).to(self.device)
        self.config.exit_adapters, self.exit_adapters = config.exit_adapters, adapters
        return adapters

    def drop_exit_adapters(self) -> None:
        """Leaves the exits as they were without."""
        self.exit_adapters = None
        if hasattr(self.config, "exit_adapters"):
            del self.config.exit_adapters

    def check_exit_adapters(self) -> None:
        """Raises ValueError for adapters that were trained on another model."""
        if self.exit_adapters is None:
            return
        if fingerprint(self, adapters=False) not in self.config.exit_adapters["backbone"]:
            raise ValueError("the exit adapters were trained on a model with other weights: train them again")

    def adapted(self, layer: int, hidden: Tensor) -> Tensor:
        """What the exit after `layer` (from 1) reads instead of its raw output [..., d_model]."""
        if self.exit_adapters is None or layer >= self.num_exits:
            return hidden
        return self.exit_adapters(layer, hidden)
