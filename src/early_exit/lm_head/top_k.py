"""Top-k token propagation: the whole head once, then only the K tokens that were likeliest there."""

import numpy as np
import torch
from torch import Tensor

from early_exit.decoding.kv_cache import on_device
from early_exit.kernels.interface import Items, Kernels
from early_exit.linear import PRECISIONS
from early_exit.lm_head.full import FullHead, Reading, chosen
from early_exit.lm_head.scores import KnownLogits, LayerScores

# K rows of the head are gathered for each state where these are no more than this share of its rows; else all
# logits are computed and K taken. See docs/speed.md.
_GATHER_BELOW = 1 / 8
# Of tokens that are no candidates. Finite: a processor that forbids all others leaves these a choice.
NOT_PROPAGATED = torch.finfo(torch.float32).min


class TopKHead(FullHead):
    """The whole head at the first layer that a token is asked about; deeper layers choose their token, and
    softmax response its confidence, among the K likeliest of that layer."""

    def __init__(self, kernels: Kernels, top_k: int, slots: int):
        super().__init__(kernels)
        self._top_k, self._vocabulary = top_k, len(kernels.tensors.head)
        self._ids = torch.zeros(slots, top_k, dtype=torch.int64, device=kernels.device)
        self._proposed_at = np.full(slots, -1, dtype=np.int64)  # the position that a slot's ids are of
        self.kept = Kept(kernels)

    def read(self, items: Items, states: Tensor) -> Reading:
        """Items of one call are all asked for the first time, or all were before."""
        if self.remembers(items):
            return Reading(items, states, self._among_proposed)
        self._proposed_at[items.slots] = items.positions
        reading = Reading(items, states, lambda reading: self._kernels.logits(reading.states))
        ids = reading.logits().topk(self._top_k, sorted=False).indices
        self._ids[on_device(items.slots, ids.device)] = ids
        return reading

    def response(self, reading: Reading, limits: np.ndarray) -> None:
        """The measure takes it from the logits of the K tokens."""

    def forget(self, slots: np.ndarray) -> None:
        self._proposed_at[slots] = -1

    def remembers(self, items: Items) -> bool:
        return bool((self._proposed_at[items.slots] == items.positions).all())

    def answers(self, reading: Reading) -> bool:
        return True

    def scores_of(self, reading: Reading, leaves: np.ndarray) -> LayerScores:
        logits = chosen(reading.logits(), leaves)
        if logits.shape[1] == self._vocabulary:  # of the first layer asked, or all were propagated
            scores = KnownLogits(logits)
        else:
            ids = self._ids[on_device(reading.items.slots[leaves], logits.device)]
            scores = _Propagated(ids, logits, self._vocabulary)
        self.kept.add(chosen(reading.states, leaves), scores.tokens())
        return scores

    def _among_proposed(self, reading: Reading) -> Tensor:
        kernels, states = self._kernels, reading.states
        ids = self._ids[on_device(reading.items.slots, states.device)]  # [n, K]
        if self._top_k == self._vocabulary:
            return kernels.logits(states)
        cheap_head = PRECISIONS[kernels.precision].head_bytes == 1  # its products cost less than gathering
        if cheap_head or ids.numel() > _GATHER_BELOW * self._vocabulary:
            return kernels.logits(states).gather(1, ids)
        return kernels.logits_of(states, ids)


class _Propagated:
    """Logits of propagated tokens; ids and logits: [n, K]."""

    def __init__(self, ids: Tensor, logits: Tensor, vocabulary: int):
        self._ids, self._logits, self._vocabulary = ids, logits, vocabulary

    def tokens(self) -> np.ndarray:
        return self._ids.gather(1, self._logits.argmax(-1, keepdim=True))[:, 0].cpu().numpy()

    def logits(self) -> Tensor:
        everything = self._logits.new_full((len(self._ids), self._vocabulary), NOT_PROPAGATED)
        return everything.scatter_(1, self._ids, self._logits)


class Kept:
    """A call that gives of how many choices the whole head's likeliest token was among the K, and how many
    choices there were. It computes the whole head for all of them, and so does pickling."""

    def __init__(self, kernels: Kernels):
        self._kernels = kernels
        self._choices: list[tuple[Tensor, np.ndarray]] = []
        self._counts = (0, 0)

    def add(self, states: Tensor, tokens: np.ndarray) -> None:
        """states: [n, d_model] that left; tokens: [n], the choices."""
        self._choices.append((states, tokens))

    def __call__(self) -> tuple[int, int]:
        kept, total = self._counts
        for states, tokens in self._choices:
            kept += int((self._kernels.logits(states).argmax(-1).cpu().numpy() == tokens).sum())
            total += len(tokens)
        self._counts, self._choices = (kept, total), []
        return self._counts

    def __getstate__(self) -> dict:
        return {"_kernels": None, "_choices": [], "_counts": self()}
