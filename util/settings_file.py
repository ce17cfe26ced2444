"""A JSON or YAML file in the place of flags: its values are read as the command line would read them."""

import json
from collections.abc import Iterable
from dataclasses import fields
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from transformers.hf_argparser import string_to_bool

SUFFIXES = (".json", ".yaml", ".yml")


def read_settings(path: Path | str, groups: Iterable[type]) -> dict[str, Any]:
    """Field name → value of its type, for the fields of some dataclasses that a file names.

    Text stands for what it says: "False" is False, "1e-4" a number. One value stands for a list of one,
    `null` for the default. Raises ValueError for a file that holds no such settings, OSError where none can
    be read.
    """
    path = Path(path)
    read = json.loads if path.suffix == ".json" else yaml.safe_load
    settings = read(path.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError("not a mapping of flags to values")
    types = {field.name: get_type_hints(group)[field.name] for group in groups for field in fields(group)}
    unknown = sorted(str(name) for name in settings if name not in types)
    if unknown:
        raise ValueError(f"unknown flags: {', '.join(unknown)}")
    return {name: _typed(name, types[name], value) for name, value in settings.items() if value is not None}


def _typed(name: str, hint: Any, value: Any) -> Any:
    """A value as the type of its field has it. Raises ValueError where it cannot be."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    items = next((get_args(kind)[0] for kind in kinds if get_origin(kind) is list), None)
    if items is not None and (isinstance(value, list) or str not in kinds):
        return [_typed(name, items, item) for item in (value if isinstance(value, list) else [value])]
    if isinstance(value, list):
        raise ValueError(f"{name}: {value} is a list; one value is allowed")
    if isinstance(value, dict):
        return value
    if bool in kinds:
        return _truth(name, value, or_text=str in kinds)
    for number in (int, float):
        if number in kinds:
            return _number(name, value, number)
    if value is False and any(isinstance(kind, type) and issubclass(kind, Enum) for kind in kinds):
        return "no"  # which YAML reads as False
    return str(value)


def _truth(name: str, value: Any, or_text: bool) -> bool | str:
    try:
        return string_to_bool(str(value))
    except Exception as error:  # argparse's own
        if or_text:
            return value
        raise ValueError(f"{name}: {value!r} is neither true nor false") from error


def _number(name: str, value: Any, number: type) -> int | float:
    try:
        if isinstance(value, bool) or float(value) != number(value):
            raise ValueError
        return number(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name}: {value!r} is not a {'whole ' * (number is int)}number") from error
