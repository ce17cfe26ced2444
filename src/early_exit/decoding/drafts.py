"""Ways of decoding in which a token that left early is a draft: its deeper layers are run later, in a block
with others', and may tell whether it stays.

Nothing is propagated: deeper keys and values are those of the full model for the tokens that were chosen.
That is FREE's synchronized parallel decoding (Bae et al. 2023, section 4.2), and where the text is to be the
full model's it is self-speculative decoding (Zhang et al. 2024, LayerSkip: Elhoushi et al. 2024) with greedy
verification (Leviathan et al. 2023).

A row's drafts stand at layers, the earlier ones at the same or deeper layers than the later ones. The token
in
flight takes along those that stand where it comes by: at every layer it sees its row's earlier positions as
the full model has them. It goes through to the last layer where it may not leave before, or where
`max_draft` tokens wait; all that wait are then there too, and the text is checked.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.exits import Choose, Exits, Leaving, Left
from early_exit.decoding.results import Drafting
from early_exit.decoding.rows import Rows
from early_exit.kernels.interface import Items
from early_exit.lm_head.full import FullHead
from early_exit.lm_head.scores import LayerScores, Scores
from early_exit.policy import ExitPolicy


@dataclass
class _Front:
    """Items that go through the layers together, ordered by slot and position. in_flight: [n] bool, those
    whose token is the row's newest; asks: [n] bool, those of them that may leave early."""

    items: Items
    states: Tensor
    in_flight: np.ndarray
    asks: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def some(self, indices: np.ndarray) -> "_Front":
        """Those at an index array."""
        states = self.states[torch.from_numpy(indices).to(self.states.device)]
        return _Front(self.items[indices], states, self.in_flight[indices], self.asks[indices])


class Drafts:
    """Drafts by the layers where `exits` lets tokens leave; what becomes of them is by `policy.verify`."""

    def __init__(self, exits: Exits, rows: Rows, head: FullHead, policy: ExitPolicy):
        self._exits, self._rows, self._head, self._policy = exits, rows, head, policy
        # Of each slot, where the drafts before its token in flight stand, by rising position.
        self._stands: list[list[int]] = [[] for _ in rows.results]

    def forget(self, slots: np.ndarray) -> None:
        """Other rows are in these slots now."""
        self._exits.forget(slots)
        for slot in slots.tolist():
            self._stands[slot] = []
            self._rows.results[slot].drafting = Drafting()

    def prefill(self, items: Items, states: Tensor) -> None:
        """Runs tokens of prefixes, which choose nothing, through all layers."""
        self._exits.prefill(items, states)

    def step(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Runs the tokens in flight of some rows. Returns the slots of the rows whose text ends."""
        rows = self._rows
        items, states = rows.items(slots)
        asks = np.array([len(self._stands[slot]) < self._policy.max_draft for slot in slots.tolist()])
        drafted, through = self._run(_Front(items, states, np.ones(len(items), dtype=bool), asks), slots, 0)
        ended = []
        if drafted is not None:
            # Whose draft ends the text.
            last = self._exits.advance(drafted, getattr(choose, "draft", choose))
            for slot in drafted.slots.tolist():
                rows.results[slot].drafting.drafted += 1
            ended.append(self._catch_up(last, choose) if len(last) else last)
        if through is not None:
            ended.append(self._settle(through, choose))
        if (settled := getattr(choose, "settled", None)) is not None and through is not None:
            for slot in np.unique(through.items.slots).tolist():
                settled(int(rows.prompt[slot]), int(rows.position[slot]) + 1)
        return np.concatenate(ended)

    def _catch_up(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Checks the drafts of rows whose last one ends the text: there is no token in flight after them."""
        if self._policy.verify == "parallel":
            for slot in slots.tolist():
                self._rows.results[slot].drafting.accepted += len(self._stands[slot])
            return slots
        nothing, none = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
        states = self._rows.cache.exit_states[0, :0]
        deepest_left = min(self._stands[slot][-1] for slot in slots.tolist())
        _, through = self._run(_Front(Items(nothing, nothing), states, none, none), slots, deepest_left)
        assert through is not None  # nothing is asked on the way
        return self._settle(through, choose)

    def _run(self, front: _Front, slots: np.ndarray, layer: int) -> tuple[Left | None, _Front | None]:
        """Takes items from a layer as deep as they go, and with them the drafts of their rows, `slots`.
        Returns the tokens that left early, and what came through the last layer."""
        last = self._rows.num_layers
        leaving = Leaving(self._head, last)
        while len(slots) and layer < last:
            front = self._joined(front, slots, layer)
            stop = self._exits.next_stop(layer, front.items[front.asks]) if front.asks.any() else last
            deeper = [stand for slot in slots.tolist() for stand in self._stands[slot] if stand > layer]
            reached = min([stop, *deeper])
            front, previous = self._through(front, layer, reached)
            layer = reached
            if layer == stop < last:
                front, slots = self._ask(front, previous, slots, layer, leaving)
        return leaving.together(), front if len(front) else None

    def _joined(self, front: _Front, slots: np.ndarray, layer: int) -> _Front:
        """The front, and the drafts that stand at a layer."""
        found = []
        for slot in slots.tolist():
            stands = self._stands[slot]
            first = int(self._rows.position[slot]) - len(stands)
            found += [(slot, first + index) for index, stand in enumerate(stands) if stand == layer]
        if not found:
            return front
        waiting = Items(*np.array(found, dtype=np.int64).T)
        items = Items(
            np.concatenate([front.items.slots, waiting.slots]),
            np.concatenate([front.items.positions, waiting.positions]),
        )
        no = np.zeros(len(waiting), dtype=bool)
        together = _Front(
            items,
            torch.cat([front.states, self._rows.cache.states_of(waiting.slots, waiting.positions)]),
            np.concatenate([front.in_flight, no]),
            np.concatenate([front.asks, no]),
        )
        return together.some(np.lexsort([items.positions, items.slots]))

    def _through(self, front: _Front, first: int, last: int) -> tuple[_Front, Tensor]:
        """Runs layers. Also returns the states before the last of them, where a question may need them."""
        rows = self._rows
        if not len(front):
            return front, front.states
        for slot in front.items.slots.tolist():
            rows.results[slot].drafting.layers += last - first
        for slot in np.unique(front.items.slots).tolist():
            rows.results[slot].drafting.reads += last - first
        run, previous = rows.kernels.run, front.states
        if front.asks.any() and self._exits.reads_previous:
            previous = run(front.items, front.states, first, last - 1, rows.cache, rows.sources)
            first = last - 1
        states = run(front.items, previous, first, last, rows.cache, rows.sources)
        return _Front(front.items, states, front.in_flight, front.asks), previous

    def _ask(
        self, front: _Front, previous: Tensor, slots: np.ndarray, layer: int, leaving: Leaving
    ) -> tuple[_Front, np.ndarray]:
        """Lets tokens in flight leave, and the drafts before them stop there too. Returns what goes on."""
        indices = front.asks.nonzero()[0]
        own = front.some(indices)
        before = previous[torch.from_numpy(indices).to(previous.device)]
        leaves, confidences, reading = self._exits.decide(layer, own.items, own.states, before)
        if not leaves.any():
            return front, slots
        gone = own.some(leaves.nonzero()[0])
        leaving.add(gone.items, layer, confidences[leaves], gone.states, reading, leaves)
        stops = np.isin(front.items.slots, gone.items.slots)
        stopped = front.some(stops.nonzero()[0])
        self._rows.cache.leave(stopped.items.slots, stopped.items.positions, stopped.states)
        for slot in gone.items.slots.tolist():
            self._stands[slot] = [*(max(stand, layer) for stand in self._stands[slot]), layer]
        return front.some((~stops).nonzero()[0]), slots[~np.isin(slots, gone.items.slots)]

    def _settle(self, front: _Front, choose: Choose) -> np.ndarray:
        """Checks the drafts of rows whose items have come through all layers, and lets the rows choose from
        there: after the last draft, or in the place of the first that does not stay. Returns the slots of
        the rows whose text ends."""
        rows = self._rows
        if self._policy.verify == "parallel":
            for slot in np.unique(front.items.slots).tolist():
                rows.results[slot].drafting.accepted += len(self._stands[slot])
                self._stands[slot] = []
            front = front.some(front.in_flight.nonzero()[0])
        read = self._head.unasked(front.states)
        slots, firsts = np.unique(front.items.slots, return_index=True)
        indices, ended = [], []
        for slot, first in zip(slots.tolist(), firsts.tolist(), strict=True):
            drafts, drafting = len(self._stands[slot]), rows.results[slot].drafting
            kept = self._kept(front, slot, first, drafts, read, choose)
            drafting.blocks += 1
            drafting.accepted += kept
            self._stands[slot] = []
            index = first + kept
            if index < len(front) and front.items.slots[index] == slot:
                indices.append(index)
            else:  # all stay, and the last one ends the text
                ended.append(slot)
        ended = np.array(ended, dtype=np.int64)
        if not indices:
            return ended
        chosen = np.array(indices)
        items = front.items[chosen]
        rows.rewind(items.slots, items.positions)
        self._exits.rewind(items.slots, items.positions)
        layers = np.full(len(chosen), rows.num_layers)
        unasked = np.full(len(chosen), np.nan, dtype=np.float32)
        left = Left(items.slots, layers, unasked, Scores([SomeOf(read, chosen)]))
        return np.concatenate([ended, self._exits.advance(left, choose)])

    def _kept(
        self, front: _Front, slot: int, first: int, drafts: int, read: LayerScores, choose: Choose
    ) -> int:
        """How many of a row's drafts stay. first: the index of their first item in the front; read: what its
        items choose from."""
        tokens = self._rows.results[slot].tokens[-drafts:] if drafts else []
        for index, token in enumerate(tokens, first):
            prompt, length = self._rows.prompt[[slot]], front.items.positions[[index]] + 1
            scores = Scores([SomeOf(read, np.array([index]))])
            if not self._stays(token, prompt, length, scores, choose):
                return index - first
        return drafts

    def _stays(
        self, token: int, prompt: np.ndarray, length: np.ndarray, scores: Scores, choose: Choose
    ) -> bool:
        if (stays := getattr(choose, "stays", None)) is not None:  # tokens are drawn
            return stays(int(prompt[0]), int(length[0]), token, scores)
        if self._policy.verify == "exact":
            return bool(choose(prompt, length, scores)[0][0] == token)
        shares = processed(choose, prompt, length, scores)[0].softmax(-1)
        if self._policy.verify == "rollback":
            return bool(shares[token] >= self._policy.rollback_threshold)
        return bool(shares[token] >= self._policy.accept_ratio * shares.max())


class SomeOf:
    """Scores of some rows, by an index array [n]."""

    def __init__(self, scores: LayerScores, indices: np.ndarray):
        self._scores, self._indices = scores, indices

    def tokens(self) -> np.ndarray:
        return self._scores.tokens()[self._indices]

    def logits(self) -> Tensor:
        logits = self._scores.logits()
        return logits[torch.from_numpy(self._indices).to(logits.device)]


def processed(choose: Choose, prompts: np.ndarray, lengths: np.ndarray, scores: Scores) -> Tensor:
    """The logits [n, vocabulary] that a choice is made from."""
    process = getattr(choose, "processed", None)
    return scores.logits() if process is None else process(prompts, lengths, scores)
