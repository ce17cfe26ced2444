"""Greedy decoding without a way back to Python between tokens: what `early_exit.decoding.exits` and
`early_exit.decoding.drafts` do, compiled, for measures that the library knows."""

import ctypes
from ctypes import c_double, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from early_exit.decoding.drafts import block_share
from early_exit.decoding.exits import prefill
from early_exit.decoding.greedy import GreedyChoice
from early_exit.decoding.results import Drafting
from early_exit.decoding.rows import Rows
from early_exit.heads import HeadRun, HeadWeights
from early_exit.kernels.interface import Items
from early_exit.kernels.native.exit_head import HeadAttention
from early_exit.kernels.native.kernels import NativeKernels, NativeShortlist
from early_exit.kernels.native.library import check, native_library
from early_exit.kernels.native.screen import SCREEN_COUNTS, Screen
from early_exit.policy import VERIFICATIONS, ExitPolicy

_MEASURES = {None: 0, "softmax": 1, "softmax_max": 2, "hidden_state": 3, "entropy": 5}
_EXIT_HEAD = 4
_VERIFY = {None: 0} | {name: number for number, name in enumerate(VERIFICATIONS, start=1)}
_NO_ROOM, _NAN_CONFIDENCE = 3, 4
_POINTERS = (
    "prompt token position layer step embedding thresholds planned ends tokens exit_layers confidences "
    "max_stay min_exit stands drafts since waits counts dropped ended"
).split()


class LoopArrays(ctypes.Structure):
    """`Loop` of loop.h."""

    _fields_ = (
        ("slots", c_int64),
        *[(name, c_void_p) for name in _POINTERS[:6]],
        *[(name, c_int32) for name in "measure verify min_layer max_layer last_layer max_draft".split()],
        ("limit", c_double),
        ("temperature", c_double),
        *[(name, c_void_p) for name in _POINTERS[6:8]],
        ("planned_steps", c_int64),
        *[(name, c_void_p) for name in ("exit_heads", "head_attention", "shortlist", "shortlisted")],
        ("shortlist_at_full_depth", c_int64),
        *[(name, c_void_p) for name in ("adapters", "screen")],
        ("screens_response", c_int64),
        ("screened", c_void_p),
        ("max_new_tokens", c_int64),
        ("ends", c_void_p),
        ("number_of_ends", c_int64),
        ("enough", c_int64),
        ("block_share", c_double),
        *[(name, c_void_p) for name in _POINTERS[9:]],
    )


def serves(policy: ExitPolicy, kernels, exit_head: HeadWeights | None = None) -> bool:
    """Whether the compiled loop decodes by a policy, whose exit head is given where it has one."""
    if policy.top_k is not None or not isinstance(kernels, NativeKernels):
        return False
    return policy.measure in _MEASURES or (exit_head is not None and exit_head.native is not None)


@dataclass(frozen=True)
class Reads:
    """What a policy reads besides the decoder. counts: of the screen, to which the loop adds."""

    exit_head: HeadWeights | None = None
    shortlist: NativeShortlist | None = None
    screen: Screen | None = None
    counts: dict[str, int] | None = None


class NativeLoop:
    """A way of decoding, as `early_exit.decoding.exits.Exits` is one: a step is everything until the next
    text ends."""

    def __init__(
        self,
        rows: Rows,
        policy: ExitPolicy,
        max_new_tokens: int,
        choose: GreedyChoice,
        enough: int,
        reads: Reads,
    ):
        self._rows, self._policy, self._reads = rows, policy, reads
        self._screened = np.zeros(len(SCREEN_COUNTS), np.int64)
        self._exit_head = None if reads.exit_head is None else HeadRun(reads.exit_head, rows.cache)
        assert isinstance(rows.kernels, NativeKernels)
        self._kernels = rows.kernels
        self._library = native_library()
        schedule = torch.as_tensor(0 if policy.static_layer is None else policy.static_layer)
        self._planned_steps = max(1, schedule.shape[-1] if schedule.ndim else 1)
        drafts = max(1, min(policy.max_draft, max_new_tokens))
        self._arrays = self._new_arrays(max_new_tokens, drafts)
        self._arrays["ends"] = np.ascontiguousarray(choose.ends, dtype=np.int64)
        addresses: dict[str, int | None] = {name: _address(array) for name, array in self._arrays.items()}
        if policy.static_layer is None:
            addresses["planned"] = None
        self._loop = LoopArrays(
            **addresses,
            **_fields_of(policy, rows.num_layers),
            **self._fields_of_weights(),
            slots=len(rows.prompt),
            max_draft=drafts,
            planned_steps=self._planned_steps,
            max_new_tokens=max_new_tokens,
            number_of_ends=len(choose.ends),
            enough=enough,
            block_share=block_share(policy),
        )

    def _fields_of_weights(self) -> dict[str, int | None]:
        """Those of `Loop` that say what is read besides the decoder, by name."""
        reads, screen = self._reads, self._reads.screen or self._kernels.token_screen
        exit_head, shortlist = reads.exit_head, reads.shortlist
        # Kept as long as the library holds their address.
        self._adapters = np.array([each.address for each in self._kernels.adapters], np.uint64)
        self._native_heads = None if exit_head is None else exit_head.native
        return {
            "exit_heads": None if exit_head is None else ctypes.addressof(self._native_heads.array),
            "shortlist": None if shortlist is None else shortlist.matrix.address,
            "shortlisted": None if shortlist is None else _address(shortlist.numbers),
            "adapters": _address(self._adapters) if len(self._adapters) else None,
            "screen": None if screen is None else ctypes.addressof(screen.tensors),
            "screens_response": reads.screen is not None,
            "screened": _address(self._screened),
        }

    def _new_arrays(self, steps: int, drafts: int) -> dict[str, Any]:
        """What the library reads and writes of rows, by its name in `Loop`. All but the embedding have a row
        a slot. steps: new tokens of a row; drafts: those that may wait for their check."""
        slots, planned = len(self._rows.prompt), self._planned_steps
        drops = self._policy.verify not in (None, "parallel")
        return {
            "embedding": self._kernels.embedding,
            "thresholds": np.zeros(slots),
            "planned": np.zeros((slots, planned), np.int64),
            "tokens": np.zeros((slots, steps), np.int64),
            "exit_layers": np.zeros((slots, steps), np.int64),
            "confidences": np.zeros((slots, steps), np.float32),
            "max_stay": np.zeros(slots),
            "min_exit": np.zeros(slots),
            "stands": np.zeros((slots, drafts), np.int32),
            "drafts": np.zeros(slots, np.int32),
            "since": np.zeros(slots, np.int32),
            "waits": np.zeros(slots, np.int32),
            "counts": np.zeros((slots, 6), np.int64),
            "dropped": np.zeros((slots, steps * drafts if drops else 0, 2), np.int32),
            "ended": np.zeros(slots, np.uint8),
        } | {name: getattr(self._rows, name) for name in _POINTERS[:5]}

    def forget(self, slots: np.ndarray) -> None:
        """Other rows are in these slots now."""
        arrays, prompts = self._arrays, self._rows.prompt[slots]
        arrays["thresholds"][slots] = self._policy.thresholds_of(prompts)
        steps = np.arange(self._planned_steps)
        for slot, prompt in zip(slots.tolist(), prompts.tolist(), strict=True):
            here = np.full(len(steps), prompt)
            arrays["planned"][slot] = self._policy.planned_layers(steps, here, self._rows.num_layers)
        arrays["max_stay"][slots], arrays["min_exit"][slots] = -np.inf, np.inf
        for name in ("drafts", "since", "counts", "ended"):
            arrays[name][slots] = 0
        arrays["waits"][slots] = -1
        if self._exit_head is not None:
            self._exit_head.truncate(slots, 0)

    def prefill(self, items: Items, states: torch.Tensor) -> None:
        """Runs tokens of prefixes, which choose nothing, through all layers."""
        prefill(self._rows, self._policy, self._exit_head, items, states)

    def step(self, slots: np.ndarray, choose: GreedyChoice) -> np.ndarray:
        """Decodes until a text ends. Returns the slots of the rows whose text has."""
        rows = self._rows
        while True:
            rows.cache.reserve(int(rows.position[rows.occupied].max()) + 1)
            own, other = self._kernels.tensors_of(rows.cache, rows.sources)
            attention = self._head_attention()
            self._loop.head_attention = None if attention is None else ctypes.addressof(attention)
            status = self._library.ee_decode(
                self._kernels.decoder, torch.get_num_threads(), ctypes.byref(self._loop), own, other
            )
            if status != _NO_ROOM:
                break
        self._count()
        if status == _NAN_CONFIDENCE:
            raise self._policy.nan_error()
        check(status)
        ended = self._arrays["ended"].nonzero()[0]
        ended = ended[rows.prompt[ended] >= 0]
        for slot in ended.tolist():
            self._collect(slot)
        return ended

    def _count(self) -> None:
        """Adds to the screen's counts those of a call."""
        if (counts := self._reads.counts) is not None:
            for name, number in zip(SCREEN_COUNTS, self._screened.tolist(), strict=True):
                counts[name] += number
            self._screened[:] = 0

    def _head_attention(self) -> HeadAttention | None:
        """What an exit head with attention keeps of the rows."""
        if self._exit_head is None or self._exit_head.cache is None:
            return None
        weights: Any = self._exit_head.weights
        return weights.native.attention(self._exit_head.cache)

    def _collect(self, slot: int) -> None:
        """Writes a text into the row's results."""
        row, arrays, length = self._rows.results[slot], self._arrays, int(self._rows.step[slot])
        row.tokens = arrays["tokens"][slot, :length].tolist()
        row.exit_layers = arrays["exit_layers"][slot, :length].tolist()
        row.confidences = arrays["confidences"][slot, :length].tolist()
        row.max_stay_confidence = float(arrays["max_stay"][slot])
        row.min_exit_confidence = float(arrays["min_exit"][slot])
        if self._policy.verify is not None:
            *counts, number = arrays["counts"][slot].tolist()
            row.drafting = Drafting(*counts)
            row.drafting.dropped = [tuple(each) for each in arrays["dropped"][slot, :number].tolist()]


def _fields_of(policy: ExitPolicy, num_layers: int) -> dict[str, int | float]:
    """Those of `Loop` that a policy says, by name."""
    deepest, temperature = num_layers - 1, policy.position_temperature
    return {
        "measure": _MEASURES.get(policy.measure, _EXIT_HEAD),
        "verify": _VERIFY[policy.verify],
        "min_layer": policy.min_layer,
        "max_layer": deepest if policy.max_layer is None else min(policy.max_layer, deepest),
        "last_layer": num_layers,
        "limit": policy.rollback_threshold if policy.verify == "rollback" else policy.accept_ratio,
        "temperature": -1 if temperature is None else temperature,
        "shortlist_at_full_depth": policy.shortlist_at_full_depth,
    }


def _address(array: np.ndarray | torch.Tensor) -> int:
    return array.data_ptr() if isinstance(array, torch.Tensor) else array.ctypes.data
