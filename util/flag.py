"""How a flag is declared."""

from dataclasses import field


def argument(default, help: str, **metadata):
    """A dataclass field that becomes a flag with a help text."""
    return field(default=default, metadata={"help": help, **metadata})
