"""Ways of decoding in which a token that left is final: exits by confidence, and at layers fixed beforehand.

A way of decoding says which rows leave after a layer and what they choose their tokens from. The deeper
layers' keys and values of a token that left come from its exit state, when a later token needs them
(`early_exit.decoding.kv_cache`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from early_exit.confidence import LayerView, get_measure
from early_exit.decoding.rows import Rows
from early_exit.heads import HeadRun
from early_exit.kernels.interface import Items
from early_exit.lm_head.full import FullHead, Reading, chosen
from early_exit.lm_head.scores import LayerScores, Scores
from early_exit.policy import ExitPolicy

# Gets the numbers of prompts [n], how many tokens each text has so far, prefix included [n], and their
# scores; returns their next tokens [n] int64 and which of them end [n] bool. Asked for a text's token at a
# length that it has left behind, it chooses anew from there.
Choose = Callable[[np.ndarray, np.ndarray, Scores], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Left:
    """Rows whose token has left. slots, layers: [n] int64; confidences: [n] float32; scores: in their
    order."""

    slots: np.ndarray
    layers: np.ndarray
    confidences: np.ndarray
    scores: Scores


class Exits:
    """Runs rows until each has left; what the subclasses decide is where that is.

    enough: once fewer rows than that remain, and others could run instead, they wait for company.
    """

    reads_previous = False  # whether `decide` needs the states before the layer
    remembers = False  # whether items that ask nothing are to be shown to `remember`

    def __init__(self, rows: Rows, head: FullHead, policy: ExitPolicy, max_new_tokens: int, enough: int):
        self._rows, self._head, self._policy = rows, head, policy
        self._max_new_tokens, self._enough = max_new_tokens, enough
        self._full_depth = len(rows.kernels.tensors.layers)

    def forget(self, slots: np.ndarray) -> None:
        """Other rows are in these slots now."""
        self._head.forget(slots)

    def prefill(self, items: Items, states: Tensor) -> None:
        """Runs tokens of prefixes, which choose nothing, through all layers."""
        prefill(self._rows, self._policy, None, items, states)

    def rewind(self, slots: np.ndarray, positions: np.ndarray) -> None:
        """Forgets what is known of later positions of some rows."""

    def next_remembered(self, layer: int) -> int:
        """The next layer where every item is to be shown to `remember`; L where there is none."""
        return self._rows.num_layers

    def remember(self, layer: int, items: Items, states: Tensor) -> None:
        """Keeps what later questions after this layer need of items that ask nothing there."""

    def step(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Runs rows that stand at one layer, and lets those that left choose. Returns the slots of the rows
        whose text ends."""
        left = self.run(slots)
        return np.empty(0, dtype=np.int64) if left is None else self.advance(left, choose)

    def advance(self, left: Left, choose: Choose) -> np.ndarray:
        """Lets rows choose their next tokens. Returns the slots of those whose text ends."""
        rows, slots = self._rows, left.slots
        tokens, ends = choose(rows.prompt[slots], rows.position[slots] + 1, left.scores)
        rows.advance(slots, tokens, left.layers, left.confidences)
        return slots[ends | (rows.step[slots] >= self._max_new_tokens)]

    def run(self, slots: np.ndarray) -> Left | None:
        """Runs rows that stand at one layer. Returns those that left; the others wait at a deeper one."""
        rows, leaving = self._rows, Leaving(self._head, self._full_depth)
        (items, states), layer = rows.items(slots), int(rows.layer[slots[0]])
        others = len(rows.occupied) - len(slots)
        while True:
            stop = self.next_stop(layer, items)
            previous = states
            if self.reads_previous:
                previous = rows.kernels.run(items, states, layer, stop - 1, rows.cache, rows.sources)
                layer = stop - 1
            states = rows.kernels.run(items, previous, layer, stop, rows.cache, rows.sources)
            layer = stop
            leaves, confidences, reading = self.decide(layer, items, states, previous)
            if leaves.any():
                gone = chosen(states, leaves)
                leaving.add(items[leaves], layer, confidences[leaves], gone, reading, leaves)
                if layer < rows.num_layers:
                    rows.cache.leave(items.slots[leaves], items.positions[leaves], gone)
            if leaves.all():
                break
            if leaves.any():
                stays = ~leaves
                items, states = items[stays], chosen(states, stays)
            if len(items) < self._enough and others + leaving.count:
                rows.cache.leave(items.slots, items.positions, states)
                rows.layer[items.slots] = layer
                break
        return leaving.together()

    def next_stop(self, layer: int, items: Items) -> int:
        """The next layer after which some of the items may leave."""
        raise NotImplementedError

    def decide(
        self, layer: int, items: Items, states: Tensor, previous: Tensor
    ) -> tuple[np.ndarray, np.ndarray, Reading | None]:
        """Which items leave [n] bool, with which confidence [n], and what was read of the LM head for
        that."""
        raise NotImplementedError


class StaticExits(Exits):
    """Tokens leave at layers fixed beforehand; full depth is one of them."""

    def next_stop(self, layer: int, items: Items) -> int:
        return int(self._planned(items).min())

    def decide(self, layer, items, states, previous):
        leaves = self._planned(items) == layer
        return leaves, np.full(len(items), np.nan, dtype=np.float32), None

    def _planned(self, items: Items) -> np.ndarray:
        steps, prompts = self._rows.step[items.slots], self._rows.prompt[items.slots]
        return self._policy.planned_layers(steps, prompts, self._rows.num_layers)


class ConfidenceExits(Exits):
    """A token leaves at the first layer whose confidence is above the threshold (CALM, section 3.2), at the
    last layer that is run in any case."""

    def __init__(self, *args, exit_head: HeadRun | None = None):
        super().__init__(*args)
        self._measure = get_measure(self._policy.measure)  # pyright: ignore[reportArgumentType]
        self.reads_previous = self._measure.reads_previous
        self._exit_head = exit_head
        self.remembers = exit_head is not None and exit_head.attends

    def forget(self, slots: np.ndarray) -> None:
        super().forget(slots)
        if self._exit_head is not None:
            self._exit_head.truncate(slots, 0)

    def rewind(self, slots: np.ndarray, positions: np.ndarray) -> None:
        if self._exit_head is not None:
            self._exit_head.truncate(slots, positions + 1)

    def prefill(self, items: Items, states: Tensor) -> None:
        prefill(self._rows, self._policy, self._exit_head, items, states)

    def next_remembered(self, layer: int) -> int:
        return self._next_asked(layer) if self.remembers else self._rows.num_layers

    def remember(self, layer: int, items: Items, states: Tensor) -> None:
        if self.remembers and self._asks(layer) and len(items):
            self._exit_head.log_odds(layer, items, states)  # pyright: ignore[reportOptionalMemberAccess]

    def _asks(self, layer: int) -> bool:
        return self._policy.tries_exit(layer, self._rows.num_layers)

    def next_stop(self, layer: int, items: Items) -> int:
        return self._next_asked(layer)

    def _next_asked(self, layer: int) -> int:
        last = self._rows.num_layers
        return next((deeper for deeper in range(layer + 1, last) if self._asks(deeper)), last)

    def decide(self, layer, items, states, previous):
        nothing = np.full(len(items), np.nan, dtype=np.float32)
        last = layer == self._rows.num_layers  # full depth, or a static layer
        if last and not self._head.remembers(items):
            return np.ones(len(items), dtype=bool), nothing, None
        read = self._head.adapted(layer, states) if self._measure.reads_lm_head else states
        if last:
            return np.ones(len(items), dtype=bool), nothing, self._head.read(items, read)
        reading = self._head.read(items, read)
        rows, slots = self._rows, items.slots
        decay = self._policy.decay(rows.step[slots], self._max_new_tokens)
        limits = (self._policy.thresholds_of(rows.prompt[slots]) * decay).astype(np.float32)
        bounds = self._head.response(reading, limits) if self._policy.measure == "softmax" else None
        if bounds is None:
            view = self._view(layer, items, states, previous, reading)
            confidence = (
                self._measure(view).float().cpu().numpy()
            )  # [n]; the one wait for the device in a layer
            bounds = confidence, confidence
        low, high = bounds
        if np.isnan(low).any():
            raise self._policy.nan_error()
        leaves = low > limits
        self._note_extremes(slots, leaves, low / decay, high / decay)
        return leaves, np.where(leaves, low, np.nan).astype(np.float32), reading

    def _note_extremes(
        self, slots: np.ndarray, leaves: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> None:
        for index, slot in enumerate(slots.tolist()):
            row = self._rows.results[slot]
            if leaves[index]:
                row.min_exit_confidence = min(row.min_exit_confidence, float(low[index]))
            else:
                row.max_stay_confidence = max(row.max_stay_confidence, float(high[index]))

    def _view(
        self, layer: int, items: Items, states: Tensor, previous: Tensor, reading: Reading
    ) -> LayerView:
        rows, last = self._rows, self._rows.num_layers

        def head() -> Tensor:
            if self._exit_head is None:
                raise ValueError(f"decoding with measure {self._policy.measure!r} needs its exit head")
            return self._exit_head.log_odds(layer, items, states)

        def final_tokens() -> Tensor:
            deepest = rows.kernels.run(items, states, layer, last, rows.cache, rows.sources)
            rows.cache.truncate(items.slots, items.positions, above=layer)  # the token may still leave here
            return rows.kernels.logits(deepest).argmax(-1)

        return LayerView(states, previous, reading.logits, head, final_tokens)


def prefill(rows: Rows, policy: ExitPolicy, exit_head: HeadRun | None, items: Items, states: Tensor) -> None:
    """Runs tokens of prefixes, which choose nothing, through all layers. An exit head with attention keeps
    what later tokens see of them."""
    stops = [rows.num_layers]
    if exit_head is not None and exit_head.attends:
        stops = [layer for layer in range(1, stops[0]) if policy.tries_exit(layer, stops[0])] + stops
    for first, last in pairwise([0, *stops]):
        states = rows.kernels.run(items, states, first, last, rows.cache, rows.sources)
        if exit_head is not None and last < rows.num_layers:
            exit_head.log_odds(last, items, states)


class Leaving:
    """Rows that leave in one call of `Exits.run`. Those that left without a question to the LM head are read
    together at its end."""

    def __init__(self, head: FullHead, full_depth: int):
        """full_depth: L."""
        self._head, self._full_depth = head, full_depth
        self.count = 0
        self._asked: list[tuple[Items, int, np.ndarray, LayerScores]] = []
        self._early: list[tuple[Items, int, np.ndarray, Tensor]] = []
        self._deepest: list[tuple[Items, int, np.ndarray, Tensor]] = []

    def add(
        self,
        items: Items,
        layer: int,
        confidences: np.ndarray,
        states: Tensor,
        reading: Reading | None,
        leaves,
    ) -> None:
        self.count += len(items)
        if reading is not None and self._head.answers(reading):
            self._asked.append((items, layer, confidences, self._head.scores_of(reading, leaves)))
        else:
            unasked = self._early if layer < self._full_depth else self._deepest
            unasked.append((items, layer, confidences, self._head.adapted(layer, states)))

    def together(self) -> Left | None:
        if not self.count:
            return None
        scores = [each for *_, each in self._asked]
        for unasked, read in ((self._early, self._head.early), (self._deepest, self._head.unasked)):
            if unasked:
                scores.append(read(torch.cat([states for *_, states in unasked])))
        left = [*self._asked, *self._early, *self._deepest]
        return Left(
            np.concatenate([items.slots for items, *_ in left]),
            np.concatenate([np.full(len(items), layer) for items, layer, *_ in left]),
            np.concatenate([confidences for _, _, confidences, _ in left]),
            Scores(scores),
        )
