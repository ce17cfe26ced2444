"""What a calibration costs, against decoding every threshold again for every δ.

    python -m benchmarks.calibration_cost --model save/e2e-unseen-own \
        --file save/headline/e2e-split/unseen.json \
        --json benchmarks/results/calibration_cost.json

The procedure compared with is the published one: for each δ, go down the thresholds and decode all prompts
at each until the test fails, the full model once. Its passes are decoded here once for each threshold, timed,
and counted for every δ that comes that far; `one at a time` takes prompts singly, as that code base does,
timed on a fifth of the prompts. Ours builds one loss table: prompts encoded once, texts copied between
thresholds that cannot differ. Both run on the same engine and reach the same thresholds.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.records import read_records
from early_exit import DecodingSetting, ExitPolicy
from early_exit.calibration import calibrate
from early_exit.models.loading import load_model
from early_exit.models.sources import padded_batch
from early_exit.models.t5 import EarlyExitT5
from trainers.loss_table import LossTable, PromptDecoder, as_array
from util.dissimilarity import loss
from util.files import write_json
from util.results import commit, markdown_table, provenance

DELTAS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
GRIDS = {count: [round(1 - step / count, 4) for step in range(count)] for count in (20, 100)}


@dataclass(frozen=True)
class Prompts:
    """A model and what it is calibrated with. examples: of documents and summaries; inputs: [length] each."""

    model: EarlyExitT5
    tokenizer: PreTrainedTokenizerBase
    examples: list[dict]
    inputs: list[Tensor]
    max_length: int

    @classmethod
    def read(cls, options) -> "Prompts":
        model, tokenizer = load_model(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
        examples = read_records(options.file, options.prompts)
        documents = [options.prefix + example["document"] for example in examples]
        inputs = [torch.tensor(tokenizer(document)["input_ids"]) for document in documents]
        return cls(model, tokenizer, examples, inputs, options.max_length)

    def seconds(self, policy: ExitPolicy, batch: int, prompts: int) -> float:
        """To decode so many prompts, the first ones, from scratch, in batches."""
        begin = time.perf_counter()
        for first in range(0, prompts, batch):
            padded, mask = padded_batch(self.inputs[first : min(first + batch, prompts)])
            self.model.generate(
                input_ids=padded, attention_mask=mask, max_length=self.max_length, exit_policy=policy
            )
        return time.perf_counter() - begin

    def loss(self, prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        """Textual, as a loss table asks for it."""
        texts = [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        return loss("textual", "rouge", *texts, self.examples[prompt]["summary"]), 0.0


def passes_by_delta(losses: np.ndarray, thresholds: list[float], deltas: list[float]) -> list[int]:
    """How many thresholds each δ's fixed sequence looks at: those accepted and the first that fails."""
    return [
        min(len(thresholds), len(calibrate(losses, thresholds, delta, 0.05).accepted) + 1) for delta in deltas
    ]


def build(prompts: Prompts, grid: list[float], batch: int) -> tuple[np.ndarray, float, int]:
    """Our loss table over a grid: losses, seconds, and prompts decoded, the full model's included."""
    arguments = SimpleNamespace(
        process_index=0,
        world_size=1,
        eval_batch_size=batch,
        generation_max_length=prompts.max_length,
        generation_num_beams=None,
        device=torch.device("cpu"),
    )
    number = len(prompts.inputs)
    begin = time.perf_counter()
    rows = [{"input_ids": row.tolist()} for row in prompts.inputs]
    table = LossTable(PromptDecoder(prompts.model, arguments, rows), prompts.loss)
    columns = [table.column(DecodingSetting(_softmax(threshold))) for threshold in grid]
    seconds = time.perf_counter() - begin
    decoded = number + sum(column.decoded for column in columns)
    return as_array(columns, number), seconds, decoded


def published(prompts: Prompts, passes: list[int], batch: int, read: int) -> dict[str, dict]:
    """The published procedure over `GRIDS[20]`, until its test fails and over all of the grid, timed on so
    many prompts. passes: for each δ."""
    share, grid = len(prompts.inputs) / read, GRIDS[20]
    full = share * prompts.seconds(ExitPolicy(), batch, read)
    times = [share * prompts.seconds(_softmax(threshold), batch, read) for threshold in grid]
    fails = full + sum(sum(times[:count]) for count in passes)
    everything = full + len(passes) * sum(times)
    return {
        "until it fails": {"seconds": fails, "passes": 1 + sum(passes)},
        "all of the grid": {"seconds": everything, "passes": 1 + len(passes) * len(grid)},
    }


def compare(prompts: Prompts, batch: int) -> list[dict]:
    """A row a procedure: seconds, passes over the prompts, and both kinds of time against ours."""
    prompts.seconds(ExitPolicy(), batch, min(batch, len(prompts.inputs)))  # warms up
    rows, losses, number = [], {}, len(prompts.inputs)
    for count, grid in GRIDS.items():
        losses[count], seconds, decoded = build(prompts, grid, batch)
        rows.append(_row(f"ours, {count} thresholds", seconds, decoded / number))
    passes = passes_by_delta(losses[20], GRIDS[20], DELTAS)
    for how, at_once, read in ((f"batch {batch}", batch, number), ("one at a time", 1, number // 5)):
        for until, figures in published(prompts, passes, at_once, read).items():
            rows.append(_row(f"each δ and λ again, {how}, {until}", **figures))
    for row in rows:
        row["ratio_to_ours"] = row["seconds"] / rows[0]["seconds"]
    return rows


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--prefix", default="summarize: ")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Prints the table; with --json writes it as well."""
    commit()  # now: what is measured is what stands there at the start
    options = read_options()
    rows = compare(Prompts.read(options), options.batch)
    table = [["procedure", "passes over the prompts", "seconds", "times ours (20 thresholds)"]]
    for row in rows:
        cells = (f"{row['passes']:.1f}", f"{row['seconds']:.1f}", f"{row['ratio_to_ours']:.1f}")
        table.append([row["procedure"], *cells])
    print(markdown_table(table))
    if options.json is not None:
        write_json(options.json, {**provenance(0, "cpu"), "deltas": DELTAS, "rows": rows})


def _softmax(threshold: float) -> ExitPolicy:
    return ExitPolicy(measure="softmax", threshold=threshold)


def _row(procedure: str, seconds: float, passes: float) -> dict:
    return {"procedure": procedure, "seconds": seconds, "passes": passes}


if __name__ == "__main__":
    main()
