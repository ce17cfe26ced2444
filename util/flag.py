"""How flags are declared."""

from dataclasses import field


def argument(default, help: str, **metadata):
    """A dataclass field that becomes a flag with a help text."""
    return field(default=default, metadata={"help": help, **metadata})


def make_lists(arguments, *names: str) -> None:
    """Settings files may give one value where the command line gives a list of them: makes it one."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and not isinstance(value, list):
            setattr(arguments, name, [value])
