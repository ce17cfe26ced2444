"""Audits of a deployed setting: a random share of prompts is decoded at full depth too, and compared."""

import random
import threading
from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from early_exit.calibration.monitor import Monitor
from early_exit.models.effective_generation import decoder_prefix, merged_config
from early_exit.policy import ExitPolicy

_OF_ROWS = (
    "input_ids", "inputs", "attention_mask", "inputs_embeds", "encoder_outputs", "decoder_input_ids",
    "decoder_attention_mask",
)  # fmt: skip


class Audit:
    """For `generate(exit_policy=…, audit=…)`: feeds a monitor (`early_exit.calibration.monitor`).

    loss: in [0, 1], of the new tokens of an early and of the full text, end and padding left out. share: of
    prompts that are audited, in (0, 1], drawn anew for each: which ones must not follow from their content.
    fall_back: whether full depth decodes everything once the monitor has given alarm. save: is called with
    the monitor after each call that audited something. Safe to use from several threads.

    Raises ValueError for a share outside (0, 1].
    """

    def __init__(
        self,
        monitor: Monitor,
        loss: Callable[[list[int], list[int]], float],
        share: float = 0.1,
        fall_back: bool = False,
        save: Callable[[Monitor], None] | None = None,
        seed: int | None = None,
    ):
        if not 0 < share <= 1:
            raise ValueError(f"an audit of a share {share} of prompts; allowed: (0, 1]")
        self.monitor, self.fall_back = monitor, fall_back
        self._loss, self._share, self._save = loss, share, save
        self._random, self._lock = random.Random(seed), threading.Lock()

    def generate(self, model, policy: ExitPolicy, precision: str | None, options: dict[str, Any]) -> Any:
        """What `model.generate` returns. Raises ValueError for sampling, whose texts differ without exits
        too."""
        config, _ = merged_config(model, options)
        if config.do_sample:
            raise ValueError("an audit compares greedy texts: pass do_sample=False")
        full = {"exit_policy": ExitPolicy(), "engine_precision": "float32"}
        if self.fall_back and self.monitor.alarmed:
            return model.generate(**options, **full)
        output = model.generate(**options, exit_policy=policy, engine_precision=precision)
        sequences = output if isinstance(output, Tensor) else output.sequences
        with self._lock:
            rows = [row for row in range(len(sequences)) if self._random.random() < self._share]
        if rows:
            others = {name: value for name, value in options.items() if name != "streamer"}
            chosen = {name: _of_rows(others[name], rows) for name in _OF_ROWS if others.get(name) is not None}
            texts = model.generate(**(others | chosen | {"return_dict_in_generate": False}), **full)
            prefix, _ = decoder_prefix(config, options.get("decoder_input_ids"))
            self._observe(config, sequences[rows, prefix:], texts[:, prefix:])
        return output

    def _observe(self, config: GenerationConfig, early: Tensor, full: Tensor) -> None:
        """config: of the call; early, full: [audited, length], new tokens."""
        pairs = [(_text(own, config), _text(other, config)) for own, other in zip(early, full, strict=True)]
        losses = [self._loss(own, other) for own, other in pairs]
        with self._lock:
            for loss in losses:
                self.monitor.observe(loss)
            if self._save is not None:
                self._save(self.monitor)


def _of_rows(value: Any, rows: list[int]) -> Any:
    """Some rows of an argument of `generate`: of a tensor, or of an encoder's output."""
    return value[rows] if isinstance(value, Tensor) else BaseModelOutput(last_hidden_state=value[0][rows])


def _text(tokens: Tensor, config: GenerationConfig) -> list[int]:
    """Up to the first token that ends a text, and without the padding of one that ended otherwise."""
    ends, text = config.eos_token_id, tokens.tolist()
    ends = set(ends if isinstance(ends, list) else [ends])
    end = next((index for index, token in enumerate(text) if token in ends), len(text))
    while end and text[end - 1] == config.pad_token_id:
        end -= 1
    return text[:end]
