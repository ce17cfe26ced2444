"""What asking for confidence costs: naive softmax, top-k propagation, the screened LM head, and others.

    python -m benchmarks.confidence_cost --shape t5-small --json confidence_cost.json

The worst case: confidence is asked after every layer and no token leaves (λ = 1). A ratio is the median over
turns of a method's time to that of the engine's full depth without confidence in the same turn; encoder
included, random weights, end-of-sequence off. `--gather` times ways to read K rows of the head instead.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.systems import VOCABULARY, random_model
from early_exit import ExitPolicy
from early_exit.linear import Linear, pack
from early_exit.models.shapes import SHAPES
from util.files import write_json
from util.results import markdown_table, provenance

METHODS = {
    "no confidence": ExitPolicy(),
    "no confidence, screened": ExitPolicy(screen=True),
    "naive softmax": ExitPolicy(measure="softmax", threshold=1.0),
    "entropy": ExitPolicy(measure="entropy", threshold=1.0),
    "top-k 2000": ExitPolicy(measure="softmax", threshold=1.0, top_k=2000),
    "screened": ExitPolicy(measure="softmax", threshold=1.0, screen=True),
    "linear head": ExitPolicy(measure="vanilla_classifier", threshold=1.0),
    "MLP head": ExitPolicy(measure="MLP", threshold=1.0),
    "attention head": ExitPolicy(measure="transformer_MLP_64", threshold=1.0),
    "hidden_state": ExitPolicy(measure="hidden_state", threshold=1.0),
}


def costs(options, precision: str, batch: int) -> list[dict]:
    """A row a method."""
    model = random_model(options.shape)
    for name in ("vanilla_classifier", "MLP", "transformer_MLP_64"):
        if name not in model.exit_heads:
            model.add_exit_heads(name)
    source = torch.randint(3, VOCABULARY - 128, (batch, options.source))

    def seconds(policy: ExitPolicy) -> float:
        begin = time.perf_counter()
        model.generate(
            input_ids=source,
            max_new_tokens=options.new_tokens,
            exit_policy=policy,
            engine_precision=precision,
        )
        return time.perf_counter() - begin

    taken = {name: [] for name in METHODS}
    for policy in METHODS.values():
        seconds(policy)  # packs weights
    for _ in range(options.rounds):
        for name, policy in METHODS.items():
            taken[name].append(seconds(policy))
    return [
        {
            "method": name,
            "shape": options.shape,
            "batch": batch,
            "precision": precision,
            "ms_per_token": 1000 * statistics.median(times) / (batch * options.new_tokens),
            "ratio_to_no_confidence": statistics.median(
                own / base for own, base in zip(times, taken["no confidence"], strict=True)
            ),
        }
        for name, times in taken.items()
    ]


def ways_to_gather(
    weight: Tensor, head: Linear, head_int8: Linear, states: Tensor, ids: Tensor
) -> dict[str, Callable[[], Tensor]]:
    """What is timed. weight: the head's, [vocabulary, d_model]; states: [batch, d_model]; ids: [batch, K]."""
    logits, (batch, k) = head(states), ids.shape
    gathered = weight.index_select(0, ids.flatten()).view(batch, k, -1)
    union, places = ids.unique(return_inverse=True)
    together = weight.index_select(0, union)
    return {
        "topk of all logits": lambda: logits.topk(k, sorted=False).values,
        "gather K rows: weight[ids]": lambda: weight[ids],
        "gather K rows: index_select": lambda: weight.index_select(0, ids.flatten()),
        "product with the gathered rows": lambda: torch.bmm(gathered, states[:, :, None])[..., 0],
        "gather the union of K rows": lambda: weight.index_select(0, ids.unique()),
        "product with the union": lambda: (states @ together.T).gather(1, places),
        "all logits, K taken": lambda: head(states).gather(1, ids),
        "all logits in int8, K taken": lambda: head_int8(states).gather(1, ids),
    }


def gathering(options) -> list[dict]:
    """Milliseconds of ways to get the logits of K tokens for each row: once for the step, and a layer."""
    weight = random_model(options.shape).lm_head.weight.detach()
    head, head_int8 = pack(weight, "float32"), pack(weight, "int8")
    rows = []
    for batch in options.batch:
        for k in (2000, 10000):
            states = torch.randn(batch, weight.shape[1])
            ids = head(states).topk(k, sorted=False).indices  # [batch, K]
            union = len(ids.unique())
            for name, way in ways_to_gather(weight, head, head_int8, states, ids).items():
                times = []
                for _ in range(options.rounds * 3):
                    begin = time.perf_counter()
                    way()
                    times.append(time.perf_counter() - begin)
                milliseconds = 1000 * statistics.median(times)
                rows.append({"way": name, "batch": batch, "k": k, "union": union, "ms": milliseconds})
    return rows


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="t5-small", choices=tuple(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precision", nargs="+", default=["float32", "int8"])
    parser.add_argument("--source", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="turns of every method")
    parser.add_argument("--quick", action="store_true", help="two turns")
    parser.add_argument("--gather", action="store_true", help="ways to read K rows of the head")
    parser.add_argument("--json", type=Path, help="where the results go")
    options = parser.parse_args()
    options.rounds = 2 if options.quick else options.rounds
    torch.set_num_threads(options.threads)
    return options


@torch.no_grad()
def main() -> None:
    """Prints a table; with --json writes it."""
    options = read_options()
    results = {**provenance(0, "cpu")}
    if options.gather:
        results["rows"] = gathering(options)
        table = [["way", "batch", "K", "ms"]]
        table += [
            [row["way"], str(row["batch"]), str(row["k"]), f"{row['ms']:.2f}"] for row in results["rows"]
        ]
    else:
        results["rows"] = [
            row
            for precision in options.precision
            for batch in options.batch
            for row in costs(options, precision, batch)
        ]
        table = [["method", "precision", "batch", "ms/token", "ratio"]]
        table += [
            [
                row["method"],
                row["precision"],
                str(row["batch"]),
                f"{row['ms_per_token']:.2f}",
                f"{row['ratio_to_no_confidence']:.2f}",
            ]
            for row in results["rows"]
        ]
    print(markdown_table(table))
    if options.json is not None:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
