"""What a calibration costs, against decoding every threshold again for every δ.

    python -m benchmarks.calibration_cost --model save/e2e_unseen/model --file save/e2e_split/unseen.json \
        --json benchmarks/results/calibration_cost.json

The procedure compared with is the published one: for each δ, go down the thresholds and decode all prompts
at each until the test fails, the full model once. Its passes are decoded here once for each threshold, timed,
and counted for every δ that comes that far; `one at a time` takes prompts singly, as that code base does,
timed on a fifth of the prompts. Ours builds one loss table: prompts encoded once, texts copied between
thresholds that cannot differ. Both run on the same engine and reach the same thresholds.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoTokenizer

from early_exit import DecodingSetting, ExitPolicy
from early_exit.calibration import calibrate
from early_exit.models.loading import load_model
from early_exit.models.sources import padded_batch
from trainers.loss_table import LossTable, PromptDecoder, as_array
from util.dissimilarity import loss
from util.files import write_json
from util.results import markdown_table, provenance


def passes_by_delta(losses: np.ndarray, thresholds: list[float], deltas: list[float]) -> list[int]:
    """How many thresholds each δ's fixed sequence looks at: those accepted and the first that fails."""
    return [
        min(len(thresholds), len(calibrate(losses, thresholds, delta, 0.05).accepted) + 1) for delta in deltas
    ]


def decode_seconds(model, inputs: list[torch.Tensor], policy: ExitPolicy, batch: int, longest: int) -> float:
    """Seconds to decode prompts from scratch, in batches."""
    begin = time.perf_counter()
    for first in range(0, len(inputs), batch):
        padded, mask = padded_batch(inputs[first : first + batch])
        model.generate(input_ids=padded, attention_mask=mask, max_length=longest, exit_policy=policy)
    return time.perf_counter() - begin


def build(model, tokenizer, examples, inputs, grid, options) -> tuple[np.ndarray, float, int]:
    """Our loss table over a grid: losses, seconds, and prompts decoded, the full model's included."""
    arguments = SimpleNamespace(
        process_index=0,
        world_size=1,
        eval_batch_size=options.batch,
        generation_max_length=options.max_length,
        generation_num_beams=None,
        device=torch.device("cpu"),
    )

    def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (early, full)]
        return loss("textual", "rouge", *texts, examples[prompt]["summary"]), 0.0

    begin = time.perf_counter()
    rows = [{"input_ids": row.tolist()} for row in inputs]
    table = LossTable(PromptDecoder(model, arguments, rows), score)
    policies = [ExitPolicy(measure="softmax", threshold=threshold) for threshold in grid]
    columns = [table.column(DecodingSetting(policy)) for policy in policies]
    seconds = time.perf_counter() - begin
    decoded = len(inputs) + sum(column.decoded for column in columns)
    return as_array(columns, len(inputs)), seconds, decoded


def main() -> None:
    """Prints the table; with --json writes it as well."""
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
    options = parser.parse_args()

    model, tokenizer = load_model(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    lines = options.file.read_text(encoding="utf-8").splitlines()[: options.prompts]
    examples = [json.loads(line) for line in lines]
    inputs = [
        torch.tensor(tokenizer(options.prefix + example["document"])["input_ids"]) for example in examples
    ]
    deltas = [0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5]
    grids = {count: [round(1 - step / count, 4) for step in range(count)] for count in (20, 100)}
    decode_seconds(model, inputs[: options.batch], ExitPolicy(), options.batch, options.max_length)

    rows = []
    for count, grid in grids.items():
        losses, seconds, decoded = build(model, tokenizer, examples, inputs, grid, options)
        rows.append(_row(f"ours, {count} thresholds", seconds, decoded / len(inputs)))
        if count == 20:
            passes = passes_by_delta(losses, grid, deltas)
    grid = grids[20]
    for name, batch, subset in (
        (f"each δ and λ again, batch {options.batch}", options.batch, inputs),
        ("each δ and λ again, one at a time", 1, inputs[: len(inputs) // 5]),
    ):
        share = len(inputs) / len(subset)
        full = share * decode_seconds(model, subset, ExitPolicy(), batch, options.max_length)
        times = [
            share
            * decode_seconds(
                model, subset, ExitPolicy(measure="softmax", threshold=threshold), batch, options.max_length
            )
            for threshold in grid
        ]
        seconds = full + sum(sum(times[:count]) for count in passes)
        rows.append(_row(f"{name}, until it fails", seconds, 1 + sum(passes)))
        everything = full + len(deltas) * sum(times)
        rows.append(_row(f"{name}, all of the grid", everything, 1 + len(deltas) * len(grid)))
    table = [["procedure", "passes over the prompts", "seconds", "times ours (20 thresholds)"]]
    for row in rows:
        row["ratio_to_ours"] = row["seconds"] / rows[0]["seconds"]
        cells = (f"{row['passes']:.1f}", f"{row['seconds']:.1f}", f"{row['ratio_to_ours']:.1f}")
        table.append([row["procedure"], *cells])
    print(markdown_table(table))
    if options.json is not None:
        write_json(options.json, {**provenance(0, "cpu"), "deltas": deltas, "rows": rows})


def _row(procedure: str, seconds: float, passes: float) -> dict:
    return {"procedure": procedure, "seconds": seconds, "passes": passes}


if __name__ == "__main__":
    main()
