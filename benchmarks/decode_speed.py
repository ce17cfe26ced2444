"""Milliseconds per token of the engine, transformers' `generate` and CTranslate2.

    pip install -r benchmarks/requirements.txt
    python benchmarks/decode_speed.py --shape t5-small --json benchmarks/results/decode_speed/t5-small.json

Random weights, end-of-sequence off, encoder included (and timed by itself as well). All systems of a batch
take turns, CTranslate2 in processes beside that of the others (see workers.py); a ratio is the median over
the turns of a system's time to that of `generate` in the same turn. The floor is the bytes of weights that a
step at full depth must read, over the bandwidth of summing a large tensor measured in the same run.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from speed_report import aims, draw, tables
from systems import SCHEDULES, System, decoder, random_model
from workers import Workers

from util.files import write_json
from util.results import provenance

ENGINE = [
    System("engine", precision, schedule) for precision in ("float32", "int8") for schedule in SCHEDULES
]
# Without bfloat16 arithmetic in the processor it is slow in batches: full depth and a third tell that.
BFLOAT16 = [System("engine", "bfloat16", schedule) for schedule in ("full", "1/3")]
BASELINES = [System("generate"), System("ctranslate2", "float32"), System("ctranslate2", "int8")]
# The engine's encoder alone, as its share of a token.
ENCODERS = [System("encoder", "float32"), System("encoder", "int8")]
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}


def take_turns(workers: Workers, systems: list[System], options, batch, source, new_tokens) -> list[dict]:
    """A row a system. Systems that have used up `options.budget` seconds skip further turns."""
    setting = (options.shape, batch, source, new_tokens)
    seconds = {system: [] for system in systems}
    for system in systems:
        first, _ = workers.timed(system, *setting)  # packs weights and warms up
        print(f"  {system}: first call {first:.1f} s", flush=True)
    for _ in range(options.rounds):
        for system in systems:
            if sum(seconds[system]) <= options.budget:
                seconds[system].append(workers.timed(system, *setting)[0])
    reference = seconds[System("generate")]
    return [
        {
            "system": system.name,
            "precision": system.precision,
            "schedule": system.schedule,
            "shape": options.shape,
            "batch": batch,
            "source": source,
            "new_tokens": new_tokens,
            "ms_per_token": 1000 * statistics.median(taken) / (batch * new_tokens),
            "ratio_to_generate": statistics.median(
                own / other for own, other in zip(taken, reference, strict=False)
            ),
            "turns": len(taken),
        }
        for system, taken in seconds.items()
    ]


def build(system: System, setting: tuple, threads: int) -> Callable[[], None]:
    """For `Workers`: decodes one batch of random tokens."""
    shape, batch, source, new_tokens = setting
    tokens = torch.randint(3, 32000, (batch, source), generator=torch.Generator().manual_seed(1))
    decode = decoder(system, shape, tokens, new_tokens, threads)

    def call() -> None:
        decode()

    return call


def floor(options) -> dict:
    """Bandwidth in bytes a second, and by precision the milliseconds that one step's weights take to read."""
    numbers = torch.ones(2**26)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        numbers.sum().item()
        best = min(best, time.perf_counter() - begin)
    bandwidth = numbers.numel() * 4 / best
    model = random_model(options.shape)
    read = sum(weight.numel() for name, weight in model.decoder.named_parameters() if "embed" not in name)
    # Keys and values of the source are computed once.
    read -= sum(
        attention.k.weight.numel() + attention.v.weight.numel()
        for attention in (block.layer[1].EncDecAttention for block in model.decoder.block)
    )
    read += model.lm_head.weight.numel()
    steps = {precision: 1000 * size * read / bandwidth for precision, size in BYTES.items()}
    return {"bandwidth": bandwidth, "weights": read, "ms_per_step": steps}


def peak_memory(options) -> list[dict]:
    """Bytes that a process takes at its peak, for each system at full depth with the first batch."""
    rows = []
    for system in [*BASELINES, System("engine"), System("engine", "int8")]:
        child = [sys.executable, __file__, *sys.argv[1:], "--measure-memory", system.name, system.precision]
        output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        rows.append(
            {"system": system.name, "precision": system.precision, "peak_bytes": int(output.split()[-1])}
        )
    return rows


def print_own_peak(options) -> None:
    """For --measure-memory: what this process has held at its peak, from Linux's /proc."""
    tokens = torch.randint(3, 32000, (options.batch[0], options.source))
    decoder(System(*options.measure_memory), options.shape, tokens, options.new_tokens, options.threads)()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))


def lengths(workers: Workers, options) -> list[dict]:
    """Rows over source lengths and over text lengths, at batch 1."""
    systems = [
        System("generate"),
        System("engine"),
        System("engine", "int8"),
        System("engine", "int8", "1/3"),
    ]
    sources, texts = (
        ((64, 2048), (16, 128)) if options.quick else ((64, 256, 512, 1024, 2048), (16, 64, 256, 512))
    )
    rows = []
    for source in sources:
        rows += take_turns(workers, systems, options, 1, source, options.new_tokens)
    for new_tokens in texts:
        rows += take_turns(workers, systems, options, 1, options.source, new_tokens)
    return rows


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small", choices=("t5-small", "t5-base"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="turns of every system")
    parser.add_argument("--budget", type=float, default=60, help="seconds after which a system skips turns")
    parser.add_argument("--quick", action="store_true", help="two turns, fewer lengths, no bfloat16")
    parser.add_argument("--json", type=Path, help="also draws the picture beside it")
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = 2 if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    return options


def main() -> None:
    """Prints the tables; with --json writes and draws them."""
    options = read_options()
    if options.measure_memory:
        print_own_peak(options)
        return
    environment = provenance(0, "cpu") | {"ctranslate2": version("ctranslate2")}
    workers = Workers(build, options.threads)
    results = {"environment": environment, "floor": floor(options), "rows": []}
    for batch in options.batch:
        print(f"{options.shape}, batch {batch}", flush=True)
        systems = [*BASELINES, *ENGINE, *ENCODERS, *([] if options.quick else BFLOAT16)]
        results["rows"] += take_turns(workers, systems, options, batch, options.source, options.new_tokens)
    results["aims"] = aims(results["rows"])
    results["lengths"] = lengths(workers, options)
    results["memory"] = peak_memory(options)
    print(tables(results))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.json, results)
        draw(results, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
