"""Ways of decoding in which a token that left early is a draft: its deeper layers are run later, in a block
with others', and may tell whether it stays.

Nothing is propagated: deeper keys and values are those of the full model for the tokens that were chosen.
That is FREE's synchronized parallel decoding (Bae et al. 2023, section 4.2), and where the text is to be the
full model's it is self-speculative decoding (Zhang et al. 2024, LayerSkip: Elhoushi et al. 2024) with greedy
verification (Leviathan et al. 2023).

A row's drafts stand at layers, the earlier ones at the same or deeper layers than the later ones. The token
in flight takes along those that stand where it comes by: at every layer it sees its row's earlier positions
as the full model has them. It waits for a block where it may not leave, or where `max_draft` tokens have been
drafted since full depth chose last. A block takes all that waits through to the last layer, where the text is
checked.

Where drafts are checked, a block runs once `BLOCK_SHARE` of a batch's rows wait for one, and takes the drafts
of the other rows along: many tokens cost less in one block than in several, and what is dropped is dropped
early. Where a token is drafted, and whether it stays, does not depend on that. Parallel drafts at the end of
a text are never run deeper, so their blocks take along nothing that need not go.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.exits import Choose, Exits, Leaving, Left
from early_exit.decoding.results import Drafting
from early_exit.decoding.rows import Rows
from early_exit.kernels.interface import Items
from early_exit.lm_head.full import FullHead
from early_exit.lm_head.scores import LayerScores, Scores, SomeOf
from early_exit.policy import ExitPolicy

BLOCK_SHARE = 0.75  # docs/drafts.md has the measurement

_FINISHED = -1  # in the place of the layer where a token in flight waits: the last draft ends the text


def block_share(policy: ExitPolicy) -> float:
    """The share of rows that have to wait before a block runs."""
    return 0.0 if policy.verify == "parallel" else BLOCK_SHARE


@dataclass
class _Front:
    """Items that go through the layers together, ordered by slot and position. asks: [n] bool, tokens in
    flight that may leave early."""

    items: Items
    states: Tensor
    asks: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def some(self, indices: np.ndarray) -> "_Front":
        """Those at an index array."""
        states = self.states[torch.from_numpy(indices).to(self.states.device)]
        return _Front(self.items[indices], states, self.asks[indices])


@dataclass
class _Waiting:
    """What of a row is not at full depth. stands: layers of the drafts before its token in flight, by rising
    position; since: drafts after the last token that full depth chose; waits: the layer where the token in
    flight waits for a block, `_FINISHED`, or None."""

    stands: list[int] = field(default_factory=list)
    since: int = 0
    waits: int | None = None

    def layers(self) -> list[int]:
        """Of all that waits."""
        return self.stands if self.waits in (None, _FINISHED) else [*self.stands, self.waits]


class Drafts:
    """Drafts by the layers where `exits` lets tokens leave; what becomes of them is by `policy.verify`.

    enough: blocks run for no fewer waiting rows, where others can be drafted meanwhile.
    """

    def __init__(self, exits: Exits, rows: Rows, head: FullHead, policy: ExitPolicy, enough: int):
        self._exits, self._rows, self._head, self._policy, self._enough = exits, rows, head, policy, enough
        self._of = [_Waiting() for _ in rows.results]  # by slot

    def forget(self, slots: np.ndarray) -> None:
        """Other rows are in these slots now."""
        self._exits.forget(slots)
        for slot in slots.tolist():
            self._of[slot] = _Waiting()
            self._rows.results[slot].drafting = Drafting()

    def prefill(self, items: Items, states: Tensor) -> None:
        """Runs tokens of prefixes, which choose nothing, through all layers."""
        self._exits.prefill(items, states)

    def step(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Drafts a token of each row, all rows being given, but of those that wait for a block; runs one if
        enough wait. Returns the slots of the rows whose text ends."""
        asking = np.array([slot for slot in slots.tolist() if self._of[slot].waits is None], dtype=np.int64)
        ended = self._draft(asking, choose) if len(asking) else asking
        left = np.setdiff1d(slots, ended)
        if not self._enough_wait(left):
            return ended
        return np.concatenate([ended, self._block(left, choose)])

    def _draft(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Takes tokens in flight until they leave, or wait. Returns the slots of the rows whose text ends."""
        items, states = self._rows.items(slots)
        asks = np.array([self._of[slot].since < self._policy.max_draft for slot in slots.tolist()])
        drafted, front, layer = self._take(_Front(items, states, asks), slots)
        ended = []
        if drafted is not None:
            last = self._exits.advance(drafted, getattr(choose, "draft", choose))
            for slot in drafted.slots.tolist():
                self._rows.results[slot].drafting.drafted += 1
            ended = [slot for slot in last.tolist() if self._finish(slot)]
        if len(front):
            self._rows.cache.leave(front.items.slots, front.items.positions, front.states)
        for slot in np.unique(front.items.slots).tolist():
            own = self._of[slot]
            own.stands, own.waits = [max(stand, layer) for stand in own.stands], layer
        return np.array(ended, dtype=np.int64)

    def _finish(self, slot: int) -> bool:
        """Of a row whose last draft ends its text: whether that is final, or waits for its check."""
        own = self._of[slot]
        if self._policy.verify != "parallel":
            own.waits = _FINISHED
            return False
        self._rows.results[slot].drafting.accepted += len(own.stands)
        return True

    def _enough_wait(self, slots: np.ndarray) -> bool:
        """Whether a block is to run, these being all rows."""
        waiting = sum(self._of[slot].waits is not None for slot in slots.tolist())
        wanted = max(self._enough, block_share(self._policy) * len(slots))
        return waiting > 0 and (waiting == len(slots) or waiting >= wanted)

    def _take(self, front: _Front, slots: np.ndarray) -> tuple[Left | None, _Front, int]:
        """Takes tokens in flight to where they leave, or past the last question, and with them the drafts of
        their rows, `slots`. Returns those that left; the others; and the layer where these have come."""
        leaving, layer = Leaving(self._head, self._rows.num_layers), 0
        while front.asks.any():
            front = self._joined(front, slots, layer)
            stop = self._exits.next_stop(layer, front.items[front.asks])
            if stop == self._rows.num_layers:
                break
            reached = min([stop, *self._stands(slots, layer)])
            front, previous = self._through(front, layer, reached)
            layer = reached
            if layer == stop:
                front, slots = self._ask(front, previous, slots, layer, leaving)
        return leaving.together(), front, layer

    def _block(self, slots: np.ndarray, choose: Choose) -> np.ndarray:
        """Takes tokens in flight that wait for it to full depth, and the drafts before them; and those of the
        other rows, if they are checked there anyway. Returns the slots of the rows whose text ends."""
        checks = self._policy.verify != "parallel"
        chosen = [
            slot
            for slot in slots.tolist()
            if self._of[slot].waits is not None or (checks and self._of[slot].stands)
        ]
        slots = np.array(chosen, dtype=np.int64)
        nothing, none = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
        front = _Front(Items(nothing, nothing), self._rows.cache.exit_states[0, :0], none)
        last, layer = self._rows.num_layers, min(self._stands(slots, -1))
        while layer < last:
            front = self._joined(front, slots, layer)
            reached = min([self._exits.next_remembered(layer), *self._stands(slots, layer)])
            front, _ = self._through(front, layer, reached)
            layer = reached
            self._exits.remember(layer, front.items, front.states)
        ended = self._settle(front, choose)
        if (settled := getattr(choose, "settled", None)) is not None:
            for slot in chosen:
                settled(int(self._rows.prompt[slot]), int(self._rows.position[slot]) + 1)
        return ended

    def _stands(self, slots: np.ndarray, layer: int) -> list[int]:
        """The layers deeper than one where something of some rows waits."""
        return [stand for slot in slots.tolist() for stand in self._of[slot].layers() if stand > layer]

    def _joined(self, front: _Front, slots: np.ndarray, layer: int) -> _Front:
        """The front, and what waits at a layer."""
        found = []
        for slot in slots.tolist():
            own = self._of[slot]
            first = int(self._rows.position[slot]) - len(own.stands)
            found += [(slot, first + index) for index, stand in enumerate(own.layers()) if stand == layer]
        if not found:
            return front
        waiting = Items(*np.array(found, dtype=np.int64).T)
        items = Items(
            np.concatenate([front.items.slots, waiting.slots]),
            np.concatenate([front.items.positions, waiting.positions]),
        )
        together = _Front(
            items,
            torch.cat([front.states, self._rows.cache.states_of(waiting.slots, waiting.positions)]),
            np.concatenate([front.asks, np.zeros(len(waiting), dtype=bool)]),
        )
        return together.some(np.lexsort([items.positions, items.slots]))

    def _through(self, front: _Front, first: int, last: int) -> tuple[_Front, Tensor]:
        """Runs layers. Also returns the states before the last of them, where a question may need them."""
        rows = self._rows
        for slot in front.items.slots.tolist():
            rows.results[slot].drafting.layers += last - first
        for slot in np.unique(front.items.slots).tolist():
            rows.results[slot].drafting.reads += last - first
        run, previous = rows.kernels.run, front.states
        if front.asks.any() and self._exits.reads_previous:
            previous = run(front.items, front.states, first, last - 1, rows.cache, rows.sources)
            first = last - 1
        states = run(front.items, previous, first, last, rows.cache, rows.sources)
        return _Front(front.items, states, front.asks), previous

    def _ask(
        self, front: _Front, previous: Tensor, slots: np.ndarray, layer: int, leaving: Leaving
    ) -> tuple[_Front, np.ndarray]:
        """Lets tokens in flight leave, and the drafts before them stop there too. Returns what goes on."""
        if self._exits.remembers:
            others = front.some((~front.asks).nonzero()[0])
            self._exits.remember(layer, others.items, others.states)
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
            own = self._of[slot]
            own.stands, own.since = [*(max(stand, layer) for stand in own.stands), layer], own.since + 1
        return front.some((~stops).nonzero()[0]), slots[~np.isin(slots, gone.items.slots)]

    def _settle(self, front: _Front, choose: Choose) -> np.ndarray:
        """Checks the drafts of rows whose items have come through all layers, and lets the rows choose from
        there: after the last draft, or in the place of the first that does not stay. Returns the slots of
        the rows whose text ends."""
        rows = self._rows
        if self._policy.verify == "parallel":
            for slot in np.unique(front.items.slots).tolist():
                rows.results[slot].drafting.accepted += len(self._of[slot].stands)
                self._of[slot].stands = []
            in_flight = front.items.positions == rows.position[front.items.slots]
            front = front.some(in_flight.nonzero()[0])
        read = self._head.unasked(front.states)
        slots, firsts = np.unique(front.items.slots, return_index=True)
        indices, ended = [], []
        for slot, first in zip(slots.tolist(), firsts.tolist(), strict=True):
            own, drafting = self._of[slot], rows.results[slot].drafting
            kept = self._kept(front, slot, first, len(own.stands), read, choose)
            drafting.blocks += 1
            drafting.accepted += kept
            own.stands = []
            index = first + kept
            if index < len(front) and front.items.slots[index] == slot:
                indices.append(index)
                self._of[slot] = _Waiting()
            elif own.waits == _FINISHED:
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


def processed(choose: Choose, prompts: np.ndarray, lengths: np.ndarray, scores: Scores) -> Tensor:
    """The logits [n, vocabulary] that a choice is made from."""
    process = getattr(choose, "processed", None)
    return scores.logits() if process is None else process(prompts, lengths, scores)
