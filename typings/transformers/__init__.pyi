# For pyright alone: reading transformers' own types takes half a minute, and the library does not use them.
from typing import Any

def __getattr__(name: str) -> Any: ...
