"""Tokens per second while other processes want the same cores.

    python -m benchmarks.contention --shape t5-small --json benchmarks/results/contention.json

The first `--threads` cores are what there is. `generate` and the engine in every precision, with a thread a
core and with one thread, take turns undisturbed and beside processes that only count. A share kept is the
median over turns of the disturbed speed to the undisturbed one of the same turn.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from benchmarks import systems
from benchmarks.systems import KERNELS, Setting, System, choose_kernels
from benchmarks.workers import Workers
from early_exit import PRECISIONS
from early_exit.models.shapes import SHAPES
from util.files import write_json
from util.results import markdown_table, provenance


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Other processes that are busy as long as this lasts."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def compare(options, workers: dict[int, Workers]) -> list[dict]:
    """A row a system and number of threads."""
    setting = _setting(options)
    members = [
        (system, threads)
        for threads in workers
        for system in [System("generate"), *engines(options.precisions)]
    ]

    def speeds() -> list[float]:
        tokens = options.batch * options.new_tokens
        return [tokens / workers[threads].timed(system, *setting)[0] for system, threads in members]

    speeds()  # packs weights
    alone, beside = [], []
    for turn in range(options.rounds):
        alone.append(speeds())
        with neighbours(options.neighbours):
            beside.append(speeds())
        print(f"turn {turn + 1} of {options.rounds}", flush=True)
    before, after = (list(zip(*turns, strict=True)) for turns in (alone, beside))
    return [_row(*member, *turns) for member, *turns in zip(members, before, after, strict=True)]


def engines(precisions: list[str]) -> list[System]:
    """The engine at full depth and at a third of it."""
    return [System("engine", precision, depth) for precision in precisions for depth in ("full", "1/3")]


def _setting(options) -> Setting:
    return Setting(options.shape, options.batch, options.source, options.new_tokens, options.seed)


def _row(system: System, threads: int, before: tuple[float, ...], after: tuple[float, ...]) -> dict:
    return {
        "system": system.name,
        "precision": system.precision,
        "schedule": system.schedule,
        "threads": threads,
        "tokens_per_second": statistics.median(before),
        "disturbed": statistics.median(after),
        "kept": statistics.median(own / base for own, base in zip(after, before, strict=True)),
    }


def table(rows: list[dict]) -> str:
    """As Markdown."""
    lines = [["system", "precision", "depth", "threads", "tokens/s", "disturbed", "kept"]]
    for row in rows:
        figures = [f"{row['tokens_per_second']:.1f}", f"{row['disturbed']:.1f}", f"{row['kept']:.2f}"]
        lines.append([*(str(row[name]) for name in ("system", "precision", "schedule", "threads")), *figures])
    return markdown_table(lines)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small", choices=tuple(SHAPES))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=tuple(PRECISIONS))
    parser.add_argument("--kernels", choices=KERNELS, help="the engine's; default: its own choice")
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--neighbours", type=int, default=1, help="busy processes beside")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every system")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts")
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    choose_kernels(options.kernels)
    return options


def main() -> None:
    """Prints the table; with --json writes it."""
    options = read_options()
    # Neighbours and workers inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    environment = provenance(options.seed, "cpu")
    with ExitStack() as stack:
        counts = dict.fromkeys((options.threads, 1))
        workers = {count: stack.enter_context(Workers(systems.build, count)) for count in counts}
        decoders = [
            workers[options.threads].timed(System("decoder", precision), *_setting(options))[1]
            for precision in options.precisions
        ]
        environment["kernels"] = sorted({decoder["details"]["kernels"] for decoder in decoders})
        rows = compare(options, workers)
    print(table(rows))
    if options.json is not None:
        write_json(options.json, {"environment": environment, "rows": rows})


if __name__ == "__main__":
    main()
