"""What contention.py measures; times are not asserted."""

import os
from pathlib import Path
from types import SimpleNamespace

from benchmarks import contention


def test_each_system_is_measured_beside_neighbours(monkeypatch):
    busy = []
    monkeypatch.setattr(contention, "neighbours", lambda count: _Noted(busy, count))

    class HalfAsFast:
        def timed(self, system, *setting):
            return (4.0 if busy and busy[-1] == "begin" else 2.0), {}

    options = SimpleNamespace(
        shape="tiny", batch=1, source=8, new_tokens=4, seed=0, precisions=["int8"], rounds=2, neighbours=1
    )
    rows = contention.compare(options, {2: HalfAsFast(), 1: HalfAsFast()})
    assert [(row["system"], row["schedule"]) for row in rows[:3]] == [
        ("generate", "full"),
        ("engine", "full"),
        ("engine", "1/3"),
    ]
    assert [row["threads"] for row in rows] == [2] * 3 + [1] * 3
    assert all((row["tokens_per_second"], row["kept"]) == (2, 0.5) for row in rows)
    assert busy == ["begin", "end"] * 2


class _Noted:
    def __init__(self, notes: list[str], count: int):
        self._notes = notes
        assert count == 1

    def __enter__(self):
        self._notes.append("begin")

    def __exit__(self, *_):
        self._notes.append("end")


def test_neighbours_end():
    before = _children()
    with contention.neighbours(1):
        assert _children() - before
    assert _children() <= before


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
