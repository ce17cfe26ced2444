"""What the mixins of this folder expect behind them, for type checkers: a T5-family class of transformers."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:

    class Family(nn.Module):
        """What the mixins use of it."""

        config: Any
        generation_config: Any
        decoder: Any
        lm_head: nn.Linear
        device: torch.device

        def __init__(self, config: Any, *args: Any, **kwargs: Any): ...
        def generate(self, *args: Any, **kwargs: Any) -> Any: ...
        def save_pretrained(self, *args: Any, **kwargs: Any) -> None: ...
        def get_encoder(self, modality: str | None = None) -> Any: ...
        def _extract_generation_mode_kwargs(self, *args: Any) -> dict[str, Any]: ...
        def _prepare_cache_for_generation(self, *args: Any, **kwargs: Any) -> bool: ...

else:
    Family = object
