"""The rows that are being decoded, a slot of the caches each."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from early_exit.decoding.kv_cache import CacheSizes, KVCache, SourceCache
from early_exit.decoding.results import DecodedRow
from early_exit.kernels.interface import Items, Kernels


class Rows:
    """Where every row stands. Arrays are [slots].

    prompt: the number of the row's prompt, −1 where the slot is free. token, position: of the token in
    flight, whose prediction is the next one; layer: the layers that it has run, 0 if none. step: how many new
    tokens the row has.
    """

    def __init__(self, slots: int, kernels: Kernels, layers: int):
        spec, device = kernels.tensors.spec, kernels.device
        sizes = CacheSizes(layers, slots, spec.heads, spec.head_dim, spec.d_model)
        self.cache = KVCache(sizes, kernels.dtype, device)
        self.sources = SourceCache(sizes, kernels.dtype, device)
        self.kernels, self.num_layers = kernels, layers
        self.prompt = np.full(slots, -1, dtype=np.int64)
        self.token = np.zeros(slots, dtype=np.int64)
        self.position = np.zeros(slots, dtype=np.int64)
        self.layer = np.zeros(slots, dtype=np.int64)
        self.step = np.zeros(slots, dtype=np.int64)
        self.results: list[DecodedRow | None] = [None] * slots

    @property
    def occupied(self) -> np.ndarray:
        """Slots that hold a row, [n]."""
        return (self.prompt >= 0).nonzero()[0]

    @property
    def free(self) -> np.ndarray:
        return (self.prompt < 0).nonzero()[0]

    def admit(self, slot: int, number: int, source: Tensor, key: int, prefix: np.ndarray) -> None:
        """Takes a prompt in. source: [length, d_model]; key: the same for prompts that share it; prefix: [n
        >= 1], of which all but the last are still to be run (`unfinished_prefix`)."""
        self.sources.add(slot, key, source)
        self.cache.truncate(np.array([slot]), 0)
        self.cache.reserve(len(prefix))
        self.prompt[slot], self.token[slot], self.position[slot] = number, prefix[-1], len(prefix) - 1
        self.layer[slot] = self.step[slot] = 0
        self.results[slot] = DecodedRow(number)

    def items(self, slots: np.ndarray) -> tuple[Items, Tensor]:
        """The tokens in flight of some rows that have run equally many layers, and their states."""
        items = Items(slots, self.position[slots])
        if self.layer[slots[0]] == 0:
            return items, self.kernels.embed(self.token[slots])
        return items, self.cache.states_of(slots, items.positions)

    def advance(
        self, slots: np.ndarray, tokens: np.ndarray, layers: np.ndarray, confidences: np.ndarray
    ) -> None:
        """The rows' next tokens [n], and where the ones before left."""
        for slot, token, layer, confidence in zip(
            slots.tolist(), tokens.tolist(), layers.tolist(), confidences.tolist(), strict=True
        ):
            row = self.results[slot]
            row.tokens.append(token)
            row.exit_layers.append(layer)
            row.confidences.append(confidence)
        self.token[slots] = tokens
        self.position[slots] += 1
        self.step[slots] += 1
        self.layer[slots] = 0
        self.cache.reserve(int(self.position[slots].max()) + 1)

    def rewind(self, slots: np.ndarray, positions: np.ndarray) -> None:
        """Puts rows back to where the token at a position [n] was in flight; what came after it is
        dropped."""
        for slot, dropped in zip(slots.tolist(), (self.position[slots] - positions).tolist(), strict=True):
            if dropped:
                row = self.results[slot]
                first = len(row.tokens) - dropped
                row.drafting.dropped += enumerate(row.tokens[-dropped:], start=first)
                del row.tokens[-dropped:], row.exit_layers[-dropped:], row.confidences[-dropped:]
        self.step[slots] -= self.position[slots] - positions
        self.position[slots] = positions
        self.cache.truncate(slots, positions + 1)

    def finish(self, slots: Sequence[int]) -> list[DecodedRow]:
        """Frees slots; what their rows gave."""
        finished = []
        for slot in slots:
            finished.append(self.results[slot])
            self.results[slot], self.prompt[slot] = None, -1
            self.sources.drop(slot)
        return finished
