"""How many drafts a block should have: a fixed number, one more than were kept last, or as confidence says.

    python -m benchmarks.draft_lengths ../shared/checkpoints/e2e-small ../shared/data/e2e/validation.json

Full depth's texts are recorded once, and at each place whether the first exit's token is full depth's, and
how confident it is. Exact drafts write the same texts, so that a rule for the length of blocks can be
replayed on the record: what is kept is known, and what it costs is counted in layers, without a clock. Drafts
behind a wrong one are on another text, whose confidences are not recorded; those of the record stand in for
them.

A block of d drafts reads the exit's layers d times, and the deeper ones once, for all d + 1 tokens together;
each further token in such a product costs `--further` of a layer, a question to the LM head `--head`. The
figure is tokens for each layer that full depth would have taken: 1 is full depth's own.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.records import read_records, source_tokens
from early_exit import ExitPolicy
from early_exit.decoding.agreement import exit_agreement
from early_exit.decoding.engine import Prompt
from early_exit.models.engines import engine_for
from early_exit.models.loading import load_model
from early_exit.models.sources import Source, encode_all
from early_exit.models.stream import decode_prompts, plain_greedy
from util.files import write_json
from util.results import commit, markdown_table, provenance

LENGTHS, LEVELS, CAP = range(1, 13), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), 8


@dataclass(frozen=True)
class Record:
    """A text of full depth: at each of its tokens, whether the exit's is the same, and its confidence."""

    agrees: np.ndarray
    confidences: np.ndarray


@dataclass(frozen=True)
class Costs:
    """layers: L; exit: S; further, head: in layers."""

    layers: int
    exit: int
    further: float
    head: float

    def block(self, drafts: int, asked: int, in_flight: bool) -> float:
        """asked: questions to the LM head below full depth; in_flight: whether a token without draft is
        there."""
        alone = self.exit * (drafts + in_flight)
        together = self.layers - self.exit
        return alone + together * (1 + self.further * (drafts + in_flight - 1)) + self.head * (asked + 1)


# From how many drafts were made and kept in the last block (None at first), how many there may be now.
Length = Callable[[tuple[int, int] | None], int]


def replay(record: Record, costs: Costs, length: Length, level: float | None = None) -> float:
    """What exact drafts of a text cost, in layers. level: drafts are made as long as the confidence is above
    it; None for all."""
    place, total, last = 0, 0.0, None
    while place < len(record.agrees):
        most, drafts, asked = min(length(last), len(record.agrees) - place), 0, 0
        while drafts < most:
            asked += 1
            if level is not None and not record.confidences[place + drafts] > level:
                break
            drafts += 1
        wrong = np.flatnonzero(~record.agrees[place : place + drafts])
        kept = int(wrong[0]) if len(wrong) else drafts
        in_flight = place + drafts < len(record.agrees)
        total += costs.block(drafts, asked, in_flight)
        place += kept + 1
        last = (drafts, kept)
    return total


def rules() -> Iterable[tuple[str, Length, float | None]]:
    """Names, lengths of blocks, levels of confidence."""
    for most in LENGTHS:
        yield f"at most {most}", lambda last, most=most: most, None
    yield "last kept + 1", lambda last: 4 if last is None else last[1] + 1, None
    yield "+ 2 if all were kept, else − 1", _up_and_down(), None
    for level in LEVELS:
        yield f"confidence above {level:g}, at most {CAP}", lambda last: CAP, level


def _up_and_down() -> Length:
    """As transformers' assisted decoding sets its number of candidates."""
    now = 4

    def length(last: tuple[int, int] | None) -> int:
        nonlocal now
        now = 4 if last is None else now + 2 if last[1] == last[0] else max(1, now - 1)
        return now

    return length


@torch.no_grad()
def recorded(model, sources: list[Source], length: int, layer: int) -> list[Record]:
    """Of the full depth's texts, greedy, at most so many tokens with the start token."""
    options = {"max_length": length, "num_beams": 1}
    texts = decode_prompts(model, ExitPolicy(), "float32", sources, 8, options).rows
    policy = ExitPolicy(measure="softmax", min_layer=layer, max_layer=layer)
    held = engine_for(model, policy, "float32")
    start = np.array([plain_greedy(model, options).start])
    records = []
    for row, states in zip(texts, encode_all(held.encoder, sources, 8, model.device), strict=True):
        confidences, agrees = exit_agreement(held.engine, Prompt(states, start), row.tokens, policy)
        records.append(Record(agrees.astype(bool), confidences))
    return records


def compare(records: list[Record], costs: Costs) -> list[dict[str, Any]]:
    """A row a rule: `times_full_depth`, in layers and questions."""
    tokens = sum(len(record.agrees) for record in records)
    full = tokens * (costs.layers + costs.head)
    return [
        {
            "rule": name,
            "times_full_depth": full / sum(replay(record, costs, length, level) for record in records),
        }
        for name, length, level in rules()
    ]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("records", type=Path, help="JSON lines with document")
    parser.add_argument("--samples", type=int, default=315)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text, the start token included")
    parser.add_argument("--layer", type=int, default=1, help="of the exit")
    parser.add_argument("--further", type=float, default=0.12)
    parser.add_argument("--head", type=float, nargs="+", default=[0.0, 0.3, 1.0])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Prints a column for each price of a question; with --json writes them."""
    commit()  # now: what is measured is what stands there at the start
    options = read_options()
    model, tokenizer = load_model(str(options.model)).eval(), AutoTokenizer.from_pretrained(options.model)
    documents = [each["document"] for each in read_records(options.records, options.samples)]
    tokens = source_tokens(documents, tokenizer, longest=128)
    sources = [Source.of(torch.tensor(row)) for row in tokens]
    records = recorded(model, sources, options.length, options.layer)
    results = {}
    for head in options.head:
        costs = Costs(model.num_exits, options.layer, options.further, head)
        results[f"{head:g}"] = compare(records, costs)
    names = [row["rule"] for row in next(iter(results.values()))]
    columns = [[f"{row['times_full_depth']:.3f}" for row in rows] for rows in results.values()]
    header = ["rule", *(f"a question costs {head} layers" for head in results)]
    print(markdown_table([header, *map(list, zip(names, *columns, strict=True))]))
    if options.json is not None:
        environment = provenance(0, "cpu") | {"texts": len(records)}
        write_json(options.json, {"environment": environment, "times_full_depth": results})


if __name__ == "__main__":
    main()
