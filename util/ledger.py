"""A record of calibrations, so that trying again until one passes is seen and paid for.

Each attempt is a line of calibration_ledger.jsonl beside the checkpoint and beside the data, with what was to
be certified, for which prompts, before a loss is seen; and a second one with the outcome. Attempts count
together where they share prompts, whatever model or setting they are about: whoever tries several and keeps
what passes has tried them all. The same calibration run again is the same attempt, with the same outcome.
"""

import errno
import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from early_exit.models.hashes import json_hash

LEDGER_FILE = "calibration_ledger.jsonl"


@dataclass(frozen=True)
class Attempt:
    """The number-th attempt on these prompts, from 1. epsilon: of this one; together: the sum over it and
    those before, which bounds the chance that any of them certifies what does not hold."""

    number: int
    epsilon: float
    together: float


class Ledger:
    """The ledgers in some folders, which all hold the same; those that cannot be written are warned of."""

    def __init__(self, folders: Sequence[Path]):
        self._files = [folder / LEDGER_FILE for folder in dict.fromkeys(folders)]

    def attempt(
        self, identity: dict[str, Any], documents: Sequence[str], epsilon: float, spends: bool
    ) -> Attempt:
        """Of a calibration that has not run yet, or runs again. identity: all that it depends on, JSON
        values; documents: hashes of its prompts; epsilon: asked for. spends: the k-th attempt gets
        ε·6/(π²k²), so that all together keep ε."""
        own = attempt_id(identity, documents)
        before = [
            each["epsilon"]
            for each in self._started_before(own)
            if not set(documents).isdisjoint(each["documents"])
        ]
        number = len(before) + 1
        own_epsilon = epsilon * 6 / (math.pi * number) ** 2 if spends else epsilon
        return Attempt(number, own_epsilon, math.fsum([*before, own_epsilon]))

    def start(self, identity: dict[str, Any], documents: Sequence[str], attempt: Attempt) -> None:
        """Notes an attempt before its losses are seen."""
        own = attempt_id(identity, documents)
        prompts = hashlib.sha256("".join(sorted(documents)).encode()).hexdigest()[:16]
        line = {"attempt": own, "number": attempt.number, "prompts": prompts, "epsilon": attempt.epsilon}
        self._append({**line, **identity, "documents": sorted(documents)})

    def finish(self, identity: dict[str, Any], documents: Sequence[str], outcome: Any) -> None:
        """Notes what came of it."""
        self._append({"attempt": attempt_id(identity, documents), "outcome": outcome}, warns=False)

    def _started_before(self, own: str) -> list[dict[str, Any]]:
        """The attempts of all files that began before this one, each once. Other models' attempts stand in
        the data's ledger alone, so that each file tells what came before in it."""
        files = [_attempts(file) for file in self._files]
        noted = any(own in found for found in files)
        before: dict[str, dict[str, Any]] = {}
        for found in files:
            if own in found or not noted:
                before |= dict(takewhile(lambda each: each[0] != own, found.items()))
        return list(before.values())

    def _append(self, line: dict[str, Any], warns: bool = True) -> None:
        """One write at the file's end: two runs at once do not mix their lines."""
        text = json.dumps(line, ensure_ascii=False) + "\n"
        for file in self._files:
            try:
                if not may_write(file.parent):
                    raise OSError(errno.EROFS, "the folder is read-only")
                cut_off = file.is_file() and file.read_bytes()[-1:] not in (b"", b"\n")
                with file.open("a", encoding="utf-8") as stream:
                    stream.write("\n" + text if cut_off else text)
            except OSError as error:
                if warns:
                    warnings.warn(f"no attempt is noted in {file}: {error.strerror}", stacklevel=3)


def _attempts(file: Path) -> dict[str, dict[str, Any]]:
    """Of a ledger's file, by their ids, in the order in which they began."""
    found: dict[str, dict[str, Any]] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return found
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line) if line.strip() else {}
            if "documents" in entry:
                found.setdefault(entry["attempt"], entry)
        except (ValueError, TypeError, KeyError):
            warnings.warn(f"{file}, line {number} is no attempt and does not count", stacklevel=5)
    return found


def may_write(folder: Path) -> bool:
    """Whether a ledger may be left in a folder. The administrator could write anywhere; one that is marked
    read-only stays as it is."""
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)


def attempt_id(identity: dict[str, Any], documents: Sequence[str]) -> str:
    """The same for the same calibration of the same prompts."""
    return json_hash([identity, sorted(documents)])
