"""Things made from a model's weights, made once and kept until the weights change."""

from collections.abc import Callable, Hashable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

_optimizer_steps = 0
_kept: WeakKeyDictionary = WeakKeyDictionary()  # model → name → (state of the weights, what was made)


def _count_step(*_) -> None:
    """Fused optimizers change parameters without moving their version counters."""
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


def made_once(
    model: nn.Module, name: Hashable, parameters: Iterable[nn.Parameter], make: Callable[[], Any]
) -> Any:
    """What `make()` gives under a name; what it gave before, as long as the parameters are what they were.

    A change is seen by the parameters' version counters and by the steps of any optimizer; writing through
    `.data` moves neither.
    """
    tensors = [(parameter.data_ptr(), parameter._version, parameter.dtype) for parameter in parameters]
    state = (_optimizer_steps, tensors)
    of_model = _kept.setdefault(model, {})
    if name not in of_model or of_model[name][0] != state:
        of_model.pop(name, None)  # free its memory before the new one takes as much
        of_model[name] = (state, make())
    return of_model[name][1]
