"""Milliseconds per token of the engine, transformers' `generate`, CTranslate2 and ONNX Runtime.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.decode_speed --shape t5-small --json benchmarks/results/decode_speed/t5-small.json

Random weights, end-of-sequence off, encoder included; encoder and decoder are timed by themselves as well.
All systems of a batch take turns, peers in processes beside that of the others (see workers.py); a ratio is
the median over the turns of a system's time to another's in the same turn. Peers run with their fastest
settings that write right texts. ONNX Runtime takes part where ONNX_PYTHON names its Python (onnx_peer.py).
With `--device cuda` the peer is `generate` with a static cache, which transformers compiles and captures.
"""

import argparse
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import stream, systems
from benchmarks.bandwidth import step_bytes
from benchmarks.peers import NAMES, best_peers
from benchmarks.speed_picture import draw
from benchmarks.speed_report import aims, tables
from benchmarks.systems import KERNELS, Setting, System, choose_kernels, random_model, static_schedules
from benchmarks.turns import ratio, take_turns
from benchmarks.workers import Workers
from early_exit import PRECISIONS
from early_exit.models.shapes import SHAPES
from util.files import write_json
from util.results import provenance

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("systems", "stream", "lengths", "memory")
_STREAM_ROUNDS = 3


def build(system, setting: tuple, threads: int):
    """For `Workers`."""
    return (stream if isinstance(system, stream.Stream) else systems).build(system, setting, threads)


def own_systems(num_layers: int, precisions: list[str]) -> list[System]:
    """The engine whole, and its decoder and encoder alone, in every precision."""
    result = []
    for precision in precisions:
        result += [
            System("engine", precision, schedule)
            for schedule in ("full", *static_schedules(num_layers), "ragged")
        ]
        result += [
            System("decoder", precision, schedule) for schedule in ("full", "ragged", "ragged in step")
        ]
        result.append(System("encoder", precision))
    return result


def compare(workers: Workers, options, batch: int) -> tuple[list[dict], list[dict]]:
    """Rows of all systems at a batch, and peers that were left out."""
    setting = Setting(options.shape, batch, options.source, options.new_tokens, options.seed, options.device)
    own = own_systems(random_model(options.shape).num_exits, options.precisions)
    if options.device == "cpu":
        peers, left_out = best_peers(workers, options.peers, setting)
        own.append(System("bandwidth"))
    else:
        peers, left_out = [System("generate compiled")], []
    rows = take_turns(workers, [System("generate"), *peers, *own], setting, options.rounds, options.budget)
    bandwidth = rows.pop() if options.device == "cpu" else None
    for row in rows:
        row["ratio_to_generate"] = ratio(row, rows[0])
        if bandwidth is not None and (row["system"], row["schedule"]) == ("decoder", "full"):
            add_floor(row, bandwidth)
    return rows, [{"batch": batch, **each} for each in left_out]


def add_floor(row: dict, bandwidth: dict) -> None:
    """To the decoder at full depth: bytes that a step must read, and its time over that of reading them with
    the bandwidth measured in the same turn."""
    details, sizes = row["details"], [row[name] for name in ("batch", "source", "new_tokens")]
    model = random_model(row["shape"])
    row["step_bytes"] = step_bytes(model, details["computes_in"], *sizes, details["cache_bytes"])
    read = sum(row["step_bytes"].values())
    turns = list(zip(row["seconds"], bandwidth["bytes_per_second"], strict=False))
    row["bandwidth"] = statistics.median(speed for _, speed in turns)
    row["times_floor"] = statistics.median(
        seconds / row["new_tokens"] * speed / read for seconds, speed in turns
    )


def lengths(workers: Workers, options) -> list[dict]:
    """Rows over source lengths and over text lengths, at batch 1."""
    members = [System("generate"), System("engine"), System("engine", "int8")]
    members += [System("engine", "int8", "1/3")]
    sources, texts = ((64, 256, 512, 1024, 2048), (16, 64, 256, 512))
    if options.quick:
        sources, texts = (options.source // 2, options.source), (options.new_tokens // 2,)
    settings = [Setting(options.shape, 1, source, options.new_tokens, options.seed) for source in sources]
    settings += [Setting(options.shape, 1, options.source, text, options.seed) for text in texts]
    return [
        row
        for setting in settings
        for row in take_turns(workers, members, setting, options.rounds, options.budget)
    ]


def peak_memory(options) -> list[dict]:
    """Bytes that a process takes at its peak, for each system at full depth with the first batch."""
    rows = []
    members = [System("generate")]
    if "ctranslate2" in options.peers:
        members += [System("ctranslate2"), System("ctranslate2", "int8")]
    members += [System("engine", precision) for precision in options.precisions]
    for system in members:
        child = [sys.executable, "-m", "benchmarks.decode_speed", *sys.argv[1:]]
        child += ["--measure-memory", system.name, system.precision]
        output = subprocess.run(child, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        rows.append(
            {"system": system.name, "precision": system.precision, "peak_bytes": int(output.split()[-1])}
        )
    return rows


def print_own_peak(options) -> None:
    """For --measure-memory: what this process has held at its peak, from Linux's /proc."""
    setting = Setting(options.shape, options.batch[0], options.source, options.new_tokens, options.seed)
    systems.build(System(*options.measure_memory), setting, options.threads)()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1]))


def streams(workers: Workers, options) -> list[dict]:
    """Continuous against fixed batches, for batches of more than one row, in float32 and int8."""
    sizes = (options.prompts, 2 * options.source, 2 * options.new_tokens, options.seed, options.device)
    return [
        row
        for precision in options.precisions
        if precision in ("float32", "int8")
        for rows in options.batch
        if rows > 1
        for row in stream.compare(
            workers, Setting(options.shape, *sizes), rows, precision, min(options.rounds, _STREAM_ROUNDS)
        )
    ]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small", choices=tuple(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=tuple(PRECISIONS))
    parser.add_argument(
        "--device", default="cpu", help="of torch's systems; cuda: the peers are torch's, too"
    )
    parser.add_argument("--kernels", choices=KERNELS, help="the engine's; default: its own choice")
    parser.add_argument("--peers", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=200, help="of the stream")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="turns of every system")
    parser.add_argument("--budget", type=float, default=60, help="seconds after which a system skips turns")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts and of drawn layers")
    parser.add_argument("--quick", action="store_true", help="two turns, fewer lengths")
    parser.add_argument("--json", type=Path, help="also draws the picture beside it")
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device != "cpu" and {"lengths", "memory"} & set(options.parts):
        parser.error("--device: the parts lengths and memory are CPUs' alone; name --parts systems stream")
    options.rounds = min(2, options.rounds) if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    choose_kernels(options.kernels)
    return options


def keep(results: dict, path: Path | None) -> None:
    """Writes what is known so far, where it is asked for."""
    if path is not None:
        write_json(path, results)


def measure(options) -> dict:
    """All parts that are asked for, by name. What there is after each batch size is kept."""
    environment = provenance(options.seed, options.device)
    if "ctranslate2" in options.peers and options.device == "cpu":
        environment["ctranslate2"] = version("ctranslate2")
    results = {"environment": environment, "rows": [], "left_out": [], "stream": []}
    with Workers(build, options.threads) as workers:
        for batch in options.batch if "systems" in options.parts else []:
            print(f"{options.shape}, batch {batch}", flush=True)
            rows, left_out = compare(workers, options, batch)
            results["rows"] += rows
            results["left_out"] += left_out
            keep(results, options.json)
        if "stream" in options.parts:
            results["stream"] = streams(workers, options)
        if "lengths" in options.parts:
            results["lengths"] = lengths(workers, options)
    if "memory" in options.parts:
        results["memory"] = peak_memory(options)
    environment["kernels"] = sorted(
        {row["details"]["kernels"] for row in results["rows"] if "details" in row}
    )
    results["aims"] = aims(results["rows"], results["stream"])
    return results


def main() -> None:
    """Prints the tables; with --json writes and draws them."""
    options = read_options()
    if options.measure_memory:
        print_own_peak(options)
        return
    results = measure(options)
    print(tables(results))
    keep(results, options.json)
    if options.json is not None and results["rows"]:
        draw(results["rows"], options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
