"""A model's engines, one for each precision, made when they are first needed and anew when its weights
change."""

import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from early_exit.decoding.engine import Engine
from early_exit.heads import HeadWeights, head_kind
from early_exit.kernels.choice import kernels_for
from early_exit.kernels.interface import Kernels
from early_exit.kernels.native.kernels import NativeKernels
from early_exit.kernels.native.screen import Screen
from early_exit.linear import usable_precision
from early_exit.models.adapter import decoder_tensors
from early_exit.models.encoder import engine_encoder
from early_exit.models.exit_heads import packed_head
from early_exit.models.readable import Modules, adapters_in_use, check_readable, weight_of
from early_exit.models.token_ranking import shortlist_of
from early_exit.policy import ExitPolicy

_SAMPLES = 8  # numbers of each parameter that are looked at


@dataclass(frozen=True)
class ModelEngine:
    """engine: decodes; encoder: the model's, computing in the same precision."""

    engine: Engine
    encoder: nn.Module


def engine_for(model, policy: ExitPolicy, precision: str) -> ModelEngine:
    """The engine of a model of `models.t5` that serves a policy, in a precision of `early_exit.linear`.

    It is kept until the weights change. That is seen by the parameters' places, version counters and a few
    numbers of each: writing a few others through `.data` is not noticed, call `forget_engines` then.
    Safe to call from several threads.

    Raises ValueError for an exit head that the model lacks, exit heads and adapters of another model, and for
    modules that do not compute what their weights say.
    """
    modules = list(model.named_modules())
    check_readable(model, modules)
    held = _of_model(model)
    with held.lock:
        held.renew(modules)
        held.kept("adapters' check", model.check_exit_adapters)
        kernels = held.kept(("kernels", precision), lambda: kernels_for(decoder_tensors(model), precision))
        encoder = held.kept(("encoder", precision), lambda: engine_encoder(model, precision))
        heads = {}
        if policy.measure is not None and head_kind(policy.measure) is not None:
            heads[policy.measure] = held.exit_head(model, policy.measure, kernels)
        screen = held.screen(kernels) if policy.screen else None
        shortlist = None
        if (size := policy.shortlist) is not None:
            name = ("shortlist", size, precision)
            shortlist = held.kept(name, lambda: kernels.shortlist(shortlist_of(model, size)))
    return ModelEngine(Engine(kernels, heads, screen, shortlist), encoder)


def kept_for(model, name: str, make: Callable[[], Any]) -> Any:
    """What `make()` gives, kept under a name until the model's weights change."""
    held = _of_model(model)
    with held.lock:
        held.renew(list(model.named_modules()))
        return held.kept(name, make)


def forget_engines(model) -> None:
    """Drops what was packed from a model's weights."""
    held = _of_model(model)
    with held.lock:
        held.forget()


def precision_of(model, asked: str | None) -> str:
    """The precision that the engine computes in when `asked` for one.

    None stands for the type that the model is in; float16 becomes float32, whose range the residual stream
    of a T5 needs. Raises ValueError for an unknown name.
    """
    if asked is None:
        return "bfloat16" if weight_of(model.decoder.embed_tokens).dtype == torch.bfloat16 else "float32"
    return usable_precision(asked, model.device)


class _Held:
    """What is packed from one model's weights, by name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._kept: dict[Hashable, Any] = {}
        self._state: list | None = None
        self._views: list[Tensor] = []
        self._numbers: Tensor | None = None

    def kept(self, name: Hashable, make: Callable[[], Any]) -> Any:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def forget(self) -> None:
        self._kept, self._state = {}, None

    @torch.no_grad()
    def renew(self, modules: Modules) -> None:
        """Drops everything where a model's weights are not what they were."""
        tensors = _tensors_of(modules)
        versions = [(tensor.data_ptr(), tensor._version, tensor.dtype, tensor.shape) for tensor in tensors]
        state = [versions, adapters_in_use(modules)]
        if state != self._state:
            self._kept, self._state = {}, state
            self._views = [_sample(tensor) for tensor in tensors]
            self._numbers = self._sampled()
            return
        # Fused optimizers and `.data` change parameters without moving their version counters.
        numbers = self._sampled()
        if self._numbers is None or not torch.equal(numbers, self._numbers):
            self._kept, self._numbers = {}, numbers

    def exit_head(self, model, name: str, kernels: Kernels) -> HeadWeights:
        def make() -> HeadWeights:
            model.check_exit_heads(name)
            return packed_head(model.exit_heads[name], kernels.norm_floor, kernels.dtype, kernels.precision)

        return self.kept(("exit head", name, kernels.precision), make)

    def screen(self, kernels: Kernels) -> Screen | None:
        """The LM head in float32, screened; None, with a warning, for kernels that have none."""
        if not isinstance(kernels, NativeKernels):
            warnings.warn(
                f"no screened LM head on {kernels.device}: the whole head is computed", stacklevel=4
            )
            return None
        return self.kept(("screen", kernels.precision), kernels.screen)

    def _sampled(self) -> Tensor:
        """Some numbers of all tensors, on the host; NaN, which equals nothing, as 0."""
        return torch.cat(self._views).float().nan_to_num().cpu()


_held: WeakKeyDictionary = WeakKeyDictionary()
_making = threading.Lock()


def _of_model(model) -> _Held:
    with _making:
        return _held.setdefault(model, _Held())


def _tensors_of(modules: Modules) -> list[Tensor]:
    """Parameters and buffers, each once."""
    tensors = {}
    for _, module in modules:
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                tensors[id(tensor)] = tensor
    return list(tensors.values())


def _sample(tensor: Tensor) -> Tensor:
    """A view of a few numbers."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLES)][:_SAMPLES]
