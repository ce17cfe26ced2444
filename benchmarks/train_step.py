"""Time and peak memory of a joint training step against transformers' plain T5 step.

    python -m benchmarks.train_step --json benchmarks/results/train_step.json

Three steps, all with AdamW: `plain` is transformers' T5ForConditionalGeneration with its own loss at
full depth; `joint` is the loss over all exits as this project trains it; `naive joint` is the same loss
with every exit's logits kept for autograd. Times come from one process that takes them in turns; peak
memory from a process each, above what it held before the model was made.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import T5ForConditionalGeneration

from early_exit import layer_weights
from early_exit.models.shapes import shape_config
from early_exit.models.t5 import EarlyExitT5
from util.files import write_json
from util.results import commit, markdown_table, provenance

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = ("plain", "joint", "naive joint")


def naive_joint_loss(model, batch) -> torch.Tensor:
    """The joint loss by torch's cross-entropy, one exit after the other, all in the graph."""
    output = T5ForConditionalGeneration.forward(model, **batch, output_hidden_states=True)
    labels = batch["labels"].flatten()
    logits = [model.exit_logits(state) for state in output.decoder_hidden_states[1:-1]] + [output.logits]
    losses = [torch.nn.functional.cross_entropy(each.flatten(0, 1), labels) for each in logits]
    return sum(
        weight * loss for weight, loss in zip(layer_weights("weighted_ce", len(losses)), losses, strict=True)
    )


def make_step(variant: str, options):
    """A function that takes one training step."""
    torch.manual_seed(0)
    config = shape_config(options.shape, vocab_size=32128)
    model_class = T5ForConditionalGeneration if variant == "plain" else EarlyExitT5
    model = model_class(config).to(options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    sizes = {"input_ids": (options.batch, options.source), "labels": (options.batch, options.target)}
    batch = {name: torch.randint(2, 32128, size, device=options.device) for name, size in sizes.items()}

    def step() -> None:
        if variant == "naive joint":
            loss = naive_joint_loss(model, batch)
        else:
            loss = model(**batch, **({"exit_loss": "weighted_ce"} if variant == "joint" else {})).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if options.device == "cuda":
            torch.cuda.synchronize()

    return step


def peak_memory(options) -> int:
    """Bytes at the peak of two steps above what the process held before, for --measure-memory."""
    if options.device == "cuda":
        step = make_step(options.measure_memory, options)
        step(), step()
        return torch.cuda.max_memory_allocated()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = make_step(options.measure_memory, options)
    step(), step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure(options) -> list[dict]:
    """A row a variant: seconds a step (median), peak bytes, and both as ratios to `plain`."""
    memory = {
        variant: int(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--measure-memory", variant],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for variant in VARIANTS
    }
    steps = {variant: make_step(variant, options) for variant in VARIANTS}
    seconds = {variant: [] for variant in VARIANTS}
    for round_number in range(options.rounds + 1):
        for variant, step in steps.items():
            begin = time.perf_counter()
            step()
            if round_number > 0:  # the first round warms up
                seconds[variant].append(time.perf_counter() - begin)
    medians = {variant: statistics.median(taken) for variant, taken in seconds.items()}
    return [
        {
            "variant": variant,
            "seconds": medians[variant],
            "peak_bytes": memory[variant],
            "time_ratio": medians[variant] / medians["plain"],
            "memory_ratio": memory[variant] / memory["plain"],
        }
        for variant in VARIANTS
    ]


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small", choices=("tiny", "small", "t5-small", "t5-base"))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--source", type=int, default=512)
    parser.add_argument("--target", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure-memory", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prints the table; with --json writes it as well."""
    commit()  # now: what is measured is what stands there at the start
    options = read_options()
    if options.measure_memory:
        print(peak_memory(options))
        return
    rows = measure(options)
    print(
        markdown_table(
            [
                ["step", "seconds", "ratio", "peak MiB", "ratio"],
                *(
                    [
                        row["variant"],
                        f"{row['seconds']:.3f}",
                        f"{row['time_ratio']:.2f}",
                        f"{row['peak_bytes'] / 2**20:.0f}",
                        f"{row['memory_ratio']:.2f}",
                    ]
                    for row in rows
                ),
            ]
        )
    )
    if options.json:
        settings = {name: getattr(options, name) for name in ("shape", "batch", "source", "target", "rounds")}
        write_json(
            options.json,
            {"rows": rows, "settings": settings, "environment": provenance(seed=0, device=options.device)},
        )


if __name__ == "__main__":
    main()
