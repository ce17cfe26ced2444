"""Time of training several exit heads together against one training each.

    python -m benchmarks.head_training --json benchmarks/results/head_training.json

A step is forward, backward and Adam on random tokens with random weights. Together the frozen model runs once
for all heads. Variants take turns in one process; times are medians over the rounds.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from early_exit.models.shapes import shape_config
from early_exit.models.t5 import EarlyExitT5
from util.files import write_json
from util.results import commit, markdown_table, provenance

HEADS = (
    "vanilla_classifier",
    "MLP",
    "transformer_MLP_64",
    "transformer_MLP_512",
    "transformer_linear_64",
    "transformer_linear_512",
)


def make_step(names: tuple[str, ...], options):
    """A function that takes one training step of some heads."""
    torch.manual_seed(0)
    model = (
        EarlyExitT5(shape_config(options.shape, vocab_size=options.vocabulary)).requires_grad_(False).eval()
    )
    parameters = [parameter for name in names for parameter in model.add_exit_heads(name).parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    sizes = {"input_ids": (options.batch, options.source), "labels": (options.batch, options.target)}
    batch = {name: torch.randint(2, options.vocabulary, size) for name, size in sizes.items()}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])

    def step() -> None:
        model(**batch, exit_head_loss=("independent", names)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """Prints the table; with --json writes it as well."""
    commit()  # now: what is measured is what stands there at the start
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small")
    parser.add_argument("--vocabulary", type=int, default=32128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--source", type=int, default=512)
    parser.add_argument("--target", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    variants = {name: (name,) for name in HEADS} | {"all together": HEADS}
    steps = {name: make_step(names, options) for name, names in variants.items()}
    for step in steps.values():
        step()
    seconds = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    apart = sum(medians[name] for name in HEADS)
    rows = [
        {"heads": name, "seconds_per_step": taken, "ratio_to_all_apart": taken / apart}
        for name, taken in medians.items()
    ]
    table = [["heads", "s/step", "ratio to all apart"]]
    table += [
        [row["heads"], f"{row['seconds_per_step']:.2f}", f"{row['ratio_to_all_apart']:.2f}"] for row in rows
    ]
    print(markdown_table(table))
    if options.json is not None:
        write_json(options.json, {**provenance(0, "cpu"), "rows": rows})


if __name__ == "__main__":
    main()
