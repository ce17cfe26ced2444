"""Frozen dataclasses of plain values as dictionaries and back: what is true of a run, written as JSON.

A dictionary holds every field of its class and the version of that class's fields. Reading fills in the
defaults of fields that were added later, so that older files stay readable, and refuses what it does not
know.
"""

import types
import typing
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Value = TypeVar("Value")


def to_plain(value: Any, version: int) -> dict[str, Any]:
    """`{"version": version}` and every field of a dataclass: numbers, text, None, lists for tensors, and the
    dictionaries of fields that have a `to_dict` of their own."""
    types_of = typing.get_type_hints(type(value))
    plain = {field.name: _plain(getattr(value, field.name), types_of[field.name]) for field in fields(value)}
    return {"version": version, **plain}


def from_plain(cls: type[Value], values: dict[str, Any], version: int) -> Value:
    """The dataclass of a dictionary of `to_plain`, of this version or an older one.

    Fields that it lacks get their defaults; without "version" it is taken for older. A list becomes a tensor.
    Raises ValueError, with names and values, for a newer version, an unknown or missing key, and a value of
    another type than the field's.
    """
    values = dict(values)
    written = values.pop("version", 0)
    name = cls.__name__
    if not isinstance(written, int) or written > version:
        raise ValueError(f"{name} of version {written!r}; this code reads versions up to {version}")
    types_of = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types_of))
    if unknown:
        raise ValueError(f"unknown keys of {name}: {', '.join(unknown)}; known: {', '.join(types_of)}")
    try:
        return cls(**{key: _typed(f"{name}.{key}", value, types_of[key]) for key, value in values.items()})
    except TypeError as error:  # a field without a default that is not there
        raise ValueError(f"{name}: {error}") from error


def _plain(value: Any, wanted: Any) -> Any:
    if isinstance(value, Tensor | np.generic):
        value = value.tolist()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return _as_float(value, _allowed(wanted))


def _allowed(wanted: Any) -> list[type]:
    """The types of a field: `float | None` → float, NoneType."""
    one_of = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    return [typing.get_origin(one) or one for one in one_of]


def _as_float(value: Any, allowed: list[type]) -> Any:
    """Whole numbers as floats where floats are wanted: 1 and 1.0 are one threshold."""
    return float(value) if type(value) is int and float in allowed and int not in allowed else value


def _typed(name: str, value: Any, wanted: Any) -> Any:
    """The value as the field has it: lists as tensors, whole numbers as floats where floats are wanted."""
    allowed = _allowed(wanted)
    if isinstance(value, list) and Tensor in allowed:
        return _tensor(name, value)
    nested = [one for one in allowed if hasattr(one, "from_dict")]
    if isinstance(value, dict) and nested:
        return nested[0].from_dict(value)
    value = _as_float(value, allowed)
    if type(value) not in allowed:
        raise ValueError(f"{name} {value!r} is not of the type {wanted}")
    return value


def _tensor(name: str, values: list) -> Tensor:
    """int64, or float32 where that holds every value as it stands, float64 otherwise."""
    try:
        exact = torch.tensor(values, dtype=None if _whole(values) else torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} {values!r} is no list of numbers: {error}") from error
    if not exact.is_floating_point():
        return exact
    single = exact.float()
    return single if torch.equal(single.double(), exact) else exact


def _whole(values: list) -> bool:
    return all(_whole(each) if isinstance(each, list) else type(each) is int for each in values)
