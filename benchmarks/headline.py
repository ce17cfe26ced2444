"""Speed with quality beside it: every system on the same records of a trained model.

    pip install -r benchmarks/requirements.txt
    bash benchmarks/headline.sh

transformers' `generate`, with drafts of its own too; CTranslate2, with beams too; and the engine: full
depth, static exits, CALM's exits, FREE's, exact and lenient drafts, and what calibrations have certified.
Encoder included, tokenizer not. Systems take turns, some records at a time, each in every turn on the same
ones; a ratio is the median over turns, with the range of the middle 80%. Every record is written once by each
system, the first ones by peers with beams or drafts. Losses are to the float32 full depth's texts.
"""

import argparse
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks import onnx_peer
from benchmarks.contention import neighbours
from benchmarks.headline_systems import Records, System, engine_systems, peer_systems
from benchmarks.headline_systems import build as build_system
from benchmarks.peers import fastest_right
from benchmarks.records import pairs
from benchmarks.workers import Workers
from early_exit import DecodingSetting, ExitPolicy
from early_exit.models.loading import load_model
from util.bleu import corpus_bleu
from util.dissimilarity import QUALITY, TEXTUAL, loss
from util.files import read_json, write_json
from util.metrics import rouge_scores, scoring_rules
from util.results import markdown_table, provenance

REFERENCE = System("engine", "float32", ExitPolicy(), "full depth")
BASES = {"times_own_int8": ("engine", "int8"), "times_generate": ("generate", "float32"),
         "times_ctranslate2_int8": ("ctranslate2", "int8")}  # fmt: skip


@dataclass
class Run:
    """What a system has written so far. seconds, tokens: of each turn; counts: see `counted`."""

    system: System
    seconds: list[float]
    tokens: list[int]
    texts: list[list[int]]
    counts: Counter

    @property
    def speeds(self) -> np.ndarray:
        return np.array(self.tokens) / np.array(self.seconds)


def certified_systems(paths: list[Path]) -> list[System]:
    """What calibrations have certified, a system an entry; one for entries of the same setting."""
    found: dict[tuple, list[str]] = {}
    for path in paths:
        result = read_json(path)
        for entry in result["deltas"]:
            if not entry["certified"]:
                continue
            setting = DecodingSetting.from_dict(entry["setting"])
            promise = f"{result['consistency']} δ = {entry['delta']:g}"
            found.setdefault((setting.policy, setting.precision), []).append(promise)
    return [
        System("engine", precision, policy, "certified", ", ".join(promises))
        for (policy, precision), promises in found.items()
    ]


def right_peers(workers: Workers, peers: list[System], records: Records) -> tuple[list[System], list[dict]]:
    """Of each peer and precision the fastest setting whose texts are those of full depth, nearly; and what
    was left out. In float32 ties and rounding may change a text in ten, in int8 three."""
    expected = workers.timed(REFERENCE, records)[1][0]
    alike: dict[tuple, list[System]] = {}
    for system in peers:
        alike.setdefault((system.name, system.precision, system.beams, system.drafts), []).append(system)
    seconds: dict[System, float] = {}
    left_out = []
    for (_, precision, beams, _), tried in alike.items():
        least = 0 if beams > 1 else 0.9 if precision == "float32" else 0.7
        check = partial(_check_texts, expected, least)
        best, shortest, missing = fastest_right(workers, tried, (records,), check)
        if best is not None:
            seconds[best] = shortest
        left_out += missing
    slow = slower_int8(seconds)
    for system in slow:
        workers.end(system.process)
        settings = {"precision": system.precision, "settings": dict(system.settings)}
        left_out.append({"system": str(system), **settings, "reason": "slower than its float32"})
    return [each for each in seconds if each not in slow], left_out


def those_of(result: dict[str, Any], peers: list[System], rows: int) -> list[System]:
    """The peers, with their settings, that an earlier run has timed. Raises ValueError where it has none with
    so many texts at a time."""
    timed = [
        (row["system"], row["precision"], row["settings"]) for row in result["rows"] if row["rows"] == rows
    ]
    found = [each for each in peers if (str(each), each.precision, dict(each.settings)) in timed]
    if not found:
        known = sorted({row["rows"] for row in result["rows"]})
        raise ValueError(f"--peers-of: no peers with {rows} texts at a time; the result has {known}")
    return found


def slower_int8(seconds: dict[System, float]) -> list[System]:
    """Of CTranslate2's int8 what takes longer than its float32, as the only settings that are right may: it
    is no rival then, and would take most of the time of a run. seconds: of each peer."""
    plain = {each.precision: each for each in seconds if each.name == "ctranslate2" and each.beams == 1}
    if set(plain) != {"float32", "int8"} or seconds[plain["int8"]] <= seconds[plain["float32"]]:
        return []
    return [plain["int8"]]


def _check_texts(expected: list[list[int]], least: float, result: tuple[list[list[int]], Counter]) -> None:
    """Raises ValueError where too few texts are the expected ones."""
    same = statistics.mean(one == other for one, other in zip(result[0], expected, strict=True))
    if same < least:
        raise ValueError(f"{same:.0%} of its texts are full depth's")


def take_turns(
    workers: Workers, members: list[System], records: Records, total: int, beside: int
) -> list[Run]:
    """Every system writes all records, `records.count` a turn; a peer's beams and drafts are in the turns up
    to so many records, `beside`."""
    runs = [Run(system, [], [], [], Counter()) for system in members]
    for run in runs:
        workers.timed(run.system, records)  # packs weights and warms up
    for first in range(0, total, records.count):
        part = replace(records, first=first, count=min(records.count, total - first))
        for run in runs:
            if not _is_plain(run.system) and run.system.policy is None and first >= beside:
                continue
            seconds, (texts, counts) = workers.timed(run.system, part)
            run.counts += counts
            run.seconds.append(seconds)
            run.tokens.append(sum(len(text) + 1 for text in texts))
            run.texts += texts
        print(f"  {first + part.count} of {total} records, {records.rows} at a time", flush=True)
    return runs


def described(runs: list[Run], references: list[str], tokenizer, rows: int, risk: str) -> list[dict]:
    """A row a system, for JSON and tables. risk: the quality whose loss is a risk."""
    full = next(run for run in runs if run.system == REFERENCE)
    words = {id(run): tokenizer.batch_decode(run.texts, skip_special_tokens=True) for run in runs}
    plain = {(run.system.name, run.system.precision): run for run in runs if _is_plain(run.system)}
    bases = {name: plain.get(base) for name, base in BASES.items()}
    result = []
    for run in runs:
        texts = words[id(run)]
        number = len(texts)
        own, right = words[id(full)][:number], references[:number]
        each_alone = [[reference] for reference in right]
        row = {
            "system": str(run.system),
            "group": run.system.group,
            "precision": run.system.precision,
            "promise": run.system.promise,
            "rows": rows,
            "records": number,
            "rougeL": rouge_scores(texts, each_alone)["rougeL"],
            "bleu": corpus_bleu(texts, each_alone, "en"),
            "textual_loss": statistics.mean(map(TEXTUAL["rouge"], texts, own)),
            "risk_loss": statistics.mean(
                loss("risk", risk, *each) for each in zip(texts, own, right, strict=True)
            ),
            "same_texts": statistics.mean(map(list.__eq__, run.texts, full.texts[:number])),
            "ms_per_token": 1000 * sum(run.seconds) / sum(run.tokens),
            "tokens_per_second": sum(run.tokens) / sum(run.seconds),
            "policy": None if run.system.policy is None else run.system.policy.to_dict(),
            "settings": dict(run.system.settings),
            "counts": dict(run.counts),
        }
        for name, base in bases.items():
            if base is not None:
                low, middle, high = np.quantile(run.speeds / base.speeds[: len(run.speeds)], [0.1, 0.5, 0.9])
                row[name] = {"median": middle, "p10": low, "p90": high}
        result.append(row)
    return result


def _is_plain(system: System) -> bool:
    """Without beams, drafts, exits or a shortlist."""
    return system.beams == 1 and system.drafts is None and system.policy in (None, ExitPolicy())


def table(rows: list[dict], quality: str) -> str:
    """As Markdown. quality: the name of a score."""
    cells = [["", "system", "precision", "at a time", quality, "loss", "same texts", "ms/token",
              "times own int8", "times generate", "times CTranslate2 int8"]]  # fmt: skip
    for row in rows:
        group = f"**certified**: {row['promise']}" if row["promise"] else row["group"]
        figures = [f"{row[quality]:.1f}", f"{row['textual_loss']:.3f}", f"{100 * row['same_texts']:.0f}%"]
        figures.append(f"{row['ms_per_token']:.2f}")
        figures += [f"{row[name]['median']:.2f}" if name in row else "" for name in BASES]
        cells.append([group, row["system"], row["precision"], str(row["rows"]), *figures])
    return markdown_table(cells)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--prefix", default="summarize: ")
    parser.add_argument("--calibrations", type=Path, nargs="*", default=[], help="calibration.json files")
    parser.add_argument("--quality", choices=("rougeL", "bleu"), default="rougeL", help="of the table")
    parser.add_argument("--risk", choices=tuple(QUALITY), default="rouge", help="quality that risk is about")
    parser.add_argument("--neighbours", type=int, default=0, help="busy processes beside all systems")
    parser.add_argument("--peers-of", type=Path, help="an earlier result, whose peers are taken as they are")
    parser.add_argument("--shortlist", type=int, default=1000)
    parser.add_argument(
        "--records", type=int, nargs="+", default=[300], help="one number, or one for each of --rows"
    )
    parser.add_argument("--beside", type=int, default=60, help="records for a peer's beams and drafts")
    parser.add_argument("--rows", type=int, nargs="+", default=[1], help="texts that are written at a time")
    parser.add_argument("--turn", type=int, default=10, help="records a turn; at least two batches")
    parser.add_argument("--new-tokens", type=int, default=63)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    if len(options.records) not in (1, len(options.rows)):
        parser.error(f"--records {options.records}: one number, or one for each of --rows {options.rows}")
    torch.set_num_threads(options.threads)
    return options


def main() -> None:
    """Prints the tables; with --json writes them."""
    options = read_options()
    # Now: what is measured is what stands there at the start.
    environment = provenance(0, "cpu") | scoring_rules() | {"ctranslate2": version("ctranslate2")}
    model, tokenizer = load_model(str(options.model)), AutoTokenizer.from_pretrained(options.model)
    references = [reference for _, reference in pairs(str(options.data))]
    counts = options.records * (len(options.rows) if len(options.records) == 1 else 1)
    members = engine_systems(model.num_exits, options.shortlist, model.exit_heads)
    members += certified_systems(options.calibrations)
    results, left_out = [], onnx_peer.missing()
    with Workers(build_system, options.threads) as workers, neighbours(options.neighbours):
        for rows, total in zip(options.rows, counts, strict=True):
            total = min(total, len(references))
            part = min(total, max(options.turn, 2 * rows))
            model_path, data = str(options.model), str(options.data)
            records = Records(model_path, data, options.prefix, 0, part, rows, options.new_tokens)
            peers, missing = peer_systems(rows), []
            if options.peers_of is None:
                peers, missing = right_peers(workers, peers, records)
            else:
                peers = those_of(read_json(options.peers_of), peers, rows)
            left_out += missing
            runs = take_turns(workers, [*peers, *members], records, total, options.beside)
            results += described(runs, references, tokenizer, rows, options.risk)
            print(table(results, options.quality), flush=True)
            if options.json is not None:
                about = {
                    "environment": environment,
                    "layers": model.num_exits,
                    "neighbours": options.neighbours,
                }
                write_json(options.json, {**about, "left_out": left_out, "rows": results})


if __name__ == "__main__":
    main()
