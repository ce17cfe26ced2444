"""Drafts that are verified, beside exits and full depth: speed, quality, and whose text it is.

    python -m benchmarks.drafts ../shared/checkpoints/e2e-small ../shared/data/e2e/validation.json
    python -m benchmarks.widen ../shared/checkpoints/e2e-small ../shared/data/e2e/validation.json save/wide
    python -m benchmarks.drafts save/wide ../shared/data/e2e/validation.json --json drafts.json

Full depth, exact drafts by a fixed layer and by confidence, parallel, lenient at several ratios, and exits
with propagated states (CALM), in the precisions asked for. Beside them `generate`, and what transformers has
of its own for drafts (`PEERS`), one row at a time, which is all it serves: prompt lookup, and assisted
decoding by the model's own first decoder layer. Encoder included. Where a peer does not run, its error stands
in its place. All take turns; a ratio is the median over turns of tokens per second to the engine's own full
depth in the same turn, of the same precision and batch. "same texts" is the share of texts that are equal to
that full depth's.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.records import read_records, source_tokens
from early_exit import ExitPolicy
from early_exit.decoding.results import DecodedRow
from early_exit.models.loading import load_model
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts
from util.files import write_json
from util.metrics import rouge_against, scoring_rules
from util.results import commit, markdown_table, provenance, setting_name


@dataclass(frozen=True)
class System:
    """policy: None for transformers' own `generate`; peer: its way of drafting, a name of `PEERS`."""

    policy: ExitPolicy | None
    precision: str | None
    peer: str | None = None

    def __str__(self) -> str:
        if self.policy is None:
            return "generate" if self.peer is None else f"generate, {self.peer}"
        return f"{setting_name(self.policy)}, {self.precision}"


def first_layer_alone(model):
    """A copy of a model with the first of its decoder layers, as an assistant of it."""
    config = copy.deepcopy(model.config)
    config.num_decoder_layers = 1
    config.exit_heads = config.exit_adapters = None  # those of a model of this depth
    assistant = type(model)(config).eval()
    assistant.load_state_dict(model.state_dict(), strict=False)  # the other layers have no place there
    return assistant


# Arguments of `generate`, from the model, for its own ways of drafting.
PEERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "prompt lookup": lambda model: {"prompt_lookup_num_tokens": 6},
    "first decoder layer as assistant": lambda model: {"assistant_model": first_layer_alone(model)},
}


def policies(measure: str, threshold: float, ratios: list[float], sizes: list[int]) -> list[ExitPolicy]:
    """What is compared. measure, threshold: of exits; ratios: of lenient drafts; sizes: of blocks."""
    exits = {"measure": measure, "threshold": threshold}
    first = {"measure": measure, "threshold": 0.3, "max_layer": 1, "max_draft": max(sizes)}
    return [
        ExitPolicy(),
        *(ExitPolicy(static_layer=1, verify="exact", max_draft=size) for size in sizes),
        ExitPolicy(**first, verify="exact"),
        ExitPolicy(**exits, verify="exact", max_draft=max(sizes)),
        *(ExitPolicy(**first, verify="lenient", accept_ratio=ratio) for ratio in ratios),
        ExitPolicy(**exits, verify="parallel", max_draft=max(sizes)),
        ExitPolicy(**exits),
    ]


def decode(
    model, sources: list[Source], system: System, batch: int, length: int
) -> tuple[float, list[DecodedRow]]:
    """Seconds, and the texts."""
    options = {"max_length": length, "num_beams": 1}
    if system.peer is not None:
        options |= peer_options(model, system.peer)
    begin = time.perf_counter()
    texts = decode_prompts(model, system.policy, system.precision, sources, batch, options)
    return time.perf_counter() - begin, texts.rows


@cache
def peer_options(model, name: str) -> dict[str, Any]:
    """Made once for a model."""
    return PEERS[name](model)


def describe(rows: list[DecodedRow], own: list[DecodedRow], rouge, layers: int) -> dict[str, Any]:
    """Of a system's texts. own: full depth's of the same precision."""
    tokens = [row.tokens for row in rows]
    drafting = [row.drafting for row in rows if row.drafting is not None]
    total = sum(len(each) for each in tokens)
    told = {
        "rougeL": rouge(tokens)["rougeL"],
        "same_texts": sum(one.tokens == other.tokens for one, other in zip(rows, own, strict=True))
        / len(rows),
        "layers": sum(row.layers_run for row in rows) / total,
        "tokens": total,
    }
    if drafting:
        told["accept_rate"] = sum(each.accepted for each in drafting) / max(
            1, sum(each.drafted for each in drafting)
        )
        told["tokens_per_block"] = total / max(1, sum(each.blocks for each in drafting))
    return told


def compare(model, sources, systems: list[System], rouge, options) -> list[dict[str, Any]]:
    """A row a system and batch: `seconds` [turns], and what `describe` says."""
    results = []
    for batch in options.batch:
        texts, failed = first_texts(model, sources, systems, batch, options.length)
        results += failed
        seconds: dict[System, list[float]] = {system: [] for system in texts}
        for _ in range(options.turns):
            for system in texts:
                seconds[system].append(decode(model, sources, system, batch, options.length)[0])
        for system in texts:
            own = System(ExitPolicy(), system.precision or "float32")
            row = describe(texts[system], texts[own], rouge, model.num_exits)
            if system.peer is not None:
                del row["layers"]  # of drafts too, which transformers does not tell
            paired = zip(seconds[own], seconds[system], strict=True)
            row["times_full_depth"] = statistics.median(
                base / taken * row["tokens"] / sum(len(text.tokens) for text in texts[own])
                for base, taken in paired
            )
            row["tokens_per_second"] = row["tokens"] / statistics.median(seconds[system])
            results.append({"system": str(system), "batch": batch, "seconds": seconds[system], **row})
            print(f"  batch {batch}, {system}: {row['times_full_depth']:.2f}", flush=True)
    return results


def first_texts(
    model, sources, systems: list[System], batch: int, length: int
) -> tuple[dict[System, list[DecodedRow]], list[dict[str, Any]]]:
    """What each system writes, and of peers that do not run a row with the `error`."""
    texts, failed = {}, []
    for system in systems:
        try:
            texts[system] = decode(model, sources, system, batch, length)[1]
        except Exception as error:  # whatever transformers raises
            if system.peer is None:
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            failed.append({"system": str(system), "batch": batch, "error": reason})
            print(f"  batch {batch}, {system}: {reason}", flush=True)
    return texts, failed


def table(rows: list[dict[str, Any]]) -> str:
    """For the README."""
    header = ["system", "batch", "ROUGE-L", "same texts", "layers", "accepted", "tokens/block", "tokens/s",
              "times full depth"]  # fmt: skip
    optional = ("layers", "accept_rate", "tokens_per_block")
    cells = [
        [
            row["system"], str(row["batch"]), f"{row['rougeL']:.2f}", f"{100 * row['same_texts']:.0f}%",
            *(f"{row[key]:.2f}" if key in row else "" for key in optional),
            f"{row['tokens_per_second']:.0f}", f"{row['times_full_depth']:.2f}",
        ]
        for row in rows if "error" not in row
    ]  # fmt: skip
    return markdown_table([header, *cells])


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path, help="JSON lines with document and summary")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text, the start token included")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["float32", "int8"])
    parser.add_argument("--measure", default="softmax", help="of exits; a head must be the model's")
    parser.add_argument("--threshold", type=float, default=0.9, help="of exits")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.9, 0.5, 0.1], help="of lenient drafts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 6, 8], help="of blocks of drafts")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Prints the table; with --json writes it."""
    commit()  # now: what is measured is what stands there at the start
    options = read_options()
    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(str(options.model)).eval(), AutoTokenizer.from_pretrained(options.model)
    records = read_records(options.records, options.samples)
    encoded = source_tokens([each["document"] for each in records], tokenizer, longest=128)
    sources = [Source.of(torch.tensor(tokens)) for tokens in encoded]
    score = rouge_against([each["summary"] for each in records], tokenizer)
    own = policies(options.measure, options.threshold, options.ratios, options.sizes)
    systems = [System(None, None), *(System(None, None, peer) for peer in PEERS)]
    systems += [System(policy, precision) for precision in options.precisions for policy in own]
    with torch.no_grad():
        rows = compare(model, sources, systems, score, options)
    print(table(rows))
    if options.json is not None:
        write_json(options.json, {"environment": provenance(0, "cpu") | scoring_rules(), "rows": rows})


if __name__ == "__main__":
    main()
