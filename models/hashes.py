"""Short names of values, by what they hold."""

import hashlib
import json
from typing import Any


def json_hash(value: Any, length: int = 16) -> str:
    """Of a value as JSON, whatever the order of its keys; what JSON lacks counts as its text. `length`
    hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
