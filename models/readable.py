"""Whether the engine, which reads weights past the modules' own `forward`, would compute what the modules do.

Plain layers are read as they are; layers of PEFT (LoRA, DoRA, IA³ …) as their merged weight; whatever else
stands in a module's place, hooks and patched methods included, is refused by name.
"""

import copy
import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, TypeGuard, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

Modules = list[tuple[str, nn.Module]]  # with their names in the model

FAMILY = "is_early_exit_family"  # attribute of classes that `models.t5.with_stock_signature` has made
_OWN_PACKAGES = ("torch.nn.modules.", "transformers.", "early_exit.")


def check_readable(model, modules: Modules) -> None:
    """Raises ValueError naming the first module of a model of `models.t5` that computes something else than
    its weights say. modules: `list(model.named_modules())`, which takes its time."""
    if "prepare_inputs_for_generation" in vars(model):  # PEFT's prompt learning patches it
        raise ValueError(
            "exits cannot decode with prompt or prefix tuning, which changes the inputs of generate; "
            "pass exit_policy=None"
        )
    for name, module in _read_ones(modules):
        reason = _unreadable(module)
        if reason is not None:
            raise ValueError(
                f"the engine cannot read module {name!r}: {reason}; merge or remove that, "
                "or pass exit_policy=None"
            )


def weight_of(module: nn.Module) -> Tensor:
    """The weight that a linear layer or embedding multiplies with, adapters included; without gradient.

    Raises ValueError for an adapter that cannot be merged.
    """
    module = _unwrapped(module)
    if not _is_adapted(module):
        return _own_weight(module)
    merged = copy.deepcopy(module)
    try:
        if module.disable_adapters:
            merged.unmerge()
        else:
            merged.merge()
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise ValueError(f"an adapter of type {type(module).__name__} cannot be merged: {error}") from error
    return _own_weight(merged.get_base_layer())


def _own_weight(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight).detach()


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer, adapted or not."""
    module = _unwrapped(module)
    return isinstance(module.get_base_layer() if _is_adapted(module) else module, nn.Linear)


def adapters_in_use(modules: Modules) -> list:
    """Which adapters of which modules count: changes without any change of a parameter."""
    if "peft" not in sys.modules:
        return []
    return [
        (
            name,
            tuple(module.active_adapters),
            module.disable_adapters,
            tuple(module.merged_adapters),
            tuple(sorted(getattr(module, "scaling", {}).items())),
        )
        for name, module in modules
        if _is_adapted(module)
    ]


def _read_ones(modules: Modules) -> Iterator[tuple[str, nn.Module]]:
    """The modules that decoding reads; not those inside of an adapted layer, which count as one."""
    inside: list[str] = []
    for name, module in modules:
        if name.startswith(("exit_heads", "exit_adapters", "exit_transformation", *inside)):
            continue
        if _counts_as_one(module):
            inside.append(name + ".")
        yield name, module


def _counts_as_one(module: nn.Module) -> bool:
    return _is_adapted(module) or _is_saved_copy(module)


def _unreadable(module: nn.Module) -> str | None:
    """Why a module does not compute what its weights say; None where it does. Each call of `generate` asks
    that of each module, so it looks where torch keeps things."""
    if (module._forward_hooks or module._forward_pre_hooks) and _has_foreign_hooks(module):
        return "it has forward hooks"
    if "forward" in vars(module) and not _only_casts(module):
        return "its forward is replaced, as offloading does"
    if "parametrizations" in module._modules:
        return "its weight is parametrized"
    if any(parameter is not None and parameter.is_meta for parameter in module._parameters.values()):
        return "its weights are not loaded: they are on the meta device"
    if _is_saved_copy(module):
        return None if isinstance(_unwrapped(module), nn.Linear | nn.Embedding) else "PEFT saves a copy of it"
    if _is_adapted(module):
        base = module.get_base_layer()
        if not isinstance(base, nn.Linear | nn.Embedding) or getattr(base, "bias", None) is not None:
            return f"an adapter of type {type(module).__name__} around {type(base).__name__}"
        return _unmergeable(module)
    if not _is_known(type(module)):
        return f"it is a {type(module).__module__}.{type(module).__name__}"
    if isinstance(module, nn.Linear) and module.bias is not None:
        return "it has a bias, which T5 has not"
    return None


def _only_casts(module: nn.Module) -> bool:
    """Whether a module's forward is its own in another type: what accelerate leaves on a model that it has
    trained in mixed precision. Decoding has a precision of its own."""
    given = vars(module)
    wrapper, own = given["forward"], given.get("_original_forward")
    of_accelerate = getattr(wrapper, "__module__", "") == "accelerate.utils.operations"
    return of_accelerate and getattr(own, "__func__", None) is type(module).forward


def _has_foreign_hooks(module: nn.Module) -> bool:
    """transformers leaves hooks of its own that note outputs and change nothing."""
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return any(not getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks)


@cache
def _is_known(module_class: type) -> bool:
    is_family = FAMILY in vars(module_class)  # of its own right: a subclass may compute something else
    return is_family or f"{module_class.__module__}.".startswith(_OWN_PACKAGES)


def _unmergeable(module: object) -> str | None:
    if getattr(module, "merge", None) is None:
        return f"an adapter of type {type(module).__name__} cannot be merged"
    biases = getattr(module, "lora_bias", {})
    if isinstance(biases, dict) and any(biases.values()):
        return "its adapter has a bias"
    return None


def _is_adapted(module: nn.Module) -> "TypeGuard[BaseTunerLayer]":
    if "peft" not in sys.modules:
        return False
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _is_saved_copy(module: nn.Module) -> "TypeGuard[AuxiliaryTrainingWrapper]":
    if "peft" not in sys.modules:
        return False
    from peft.utils import AuxiliaryTrainingWrapper

    return isinstance(module, AuxiliaryTrainingWrapper)


def _unwrapped(module: nn.Module) -> nn.Module:
    """The module that PEFT's `modules_to_save` puts into another's place, or the module itself."""
    if not _is_saved_copy(module):
        return module
    if module.disable_adapters or not module.active_adapters:
        return cast(nn.Module, module.original_module)
    saved = cast(nn.ModuleDict | None, getattr(module, "modules_to_save", None))
    return module if saved is None else saved[module.active_adapters[0]]
