"""What training left in the exits: agreement with full depth, and what calibration certifies.

    python -m benchmarks.own_text ../shared/checkpoints/e2e-small save/own_text \
        --data ../shared/data/e2e/validation.json --variants start own gold \
        --results benchmarks/results/own_text

Called by own_text.sh. "start" is the first model, other variants are folders of the second argument. For
each: full depth's ROUGE-L (of translations: BLEU), and that of each static exit; the share of its own text's
tokens that each exit, teacher-forced, chooses too; for each δ (textual, ε = 0.05, all records) the layers of
the certified softmax threshold, with propagated states and with exact keys and values (parallel drafts);
the layers that exact drafts from layer 1 read for a token, and how many tokens a check of them gives; and,
of what was trained on from the start, how far full depth's texts are from the start's, in 1 − ROUGE-L. A JSON
file a variant, which is not measured again, a table of all, and a picture of how often the exits agree.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.checkpoint import LONGEST, Checkpoint
from early_exit import DecodingSetting, ExitPolicy
from early_exit.calibration import calibrate
from trainers.loss_table import LossTable, as_array
from util.arguments import DataArguments
from util.dissimilarity import rouge_l
from util.files import read_json, write_json, write_text
from util.metrics import scoring_rules
from util.results import commit, markdown_table, provenance
from util.task_arguments import TranslationArguments

matplotlib.use("Agg")
DELTAS, EPSILON, SEED = (0.05, 0.1), 0.05, 0
THRESHOLDS = [percent / 100 for percent in (98, 95, *range(90, 25, -5))]
WAYS = {"propagated": {}, "exact keys/values": {"verify": "parallel", "max_draft": 64}}
SCORES = {"rougeL": "ROUGE-L", "bleu": "BLEU"}
_MOST_SHOWN = 6  # exits of a table


def certified(table: LossTable, way: dict[str, Any], num_layers: int, prompts: int) -> dict[str, dict]:
    """δ → the certified threshold with its mean loss and layers; full depth where there is none."""
    columns = []
    for threshold in THRESHOLDS:
        policy = ExitPolicy(measure="softmax", threshold=threshold, **way)
        columns.append(table.column(DecodingSetting(policy)))
        if sum(columns[-1].losses) / prompts > max(DELTAS):
            break
    columns += [None] * (len(THRESHOLDS) - len(columns))
    result = {}
    for delta in DELTAS:
        found = calibrate(as_array(columns, prompts), THRESHOLDS, delta, EPSILON)
        layers = sum(columns[found.index].layers) / prompts if found.certified else num_layers
        loss = found.mean_loss if found.certified else 0.0
        result[f"{delta:g}"] = {"threshold": found.threshold, "layers": layers, "mean_loss": loss}
    return result


def figures(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the table shows, and more."""

    def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
        return 1 - rouge_l(checkpoint.text(early), checkpoint.text(full)), 0.0

    table = LossTable(checkpoint.prompts, score)
    full, layers = table.full, checkpoint.model.num_exits
    scores = checkpoint.scores([checkpoint.text(each) for each in full])
    (scored,) = SCORES.keys() & scores.keys()
    static = [checkpoint.texts(ExitPolicy(static_layer=layer)) for layer in range(1, layers)]
    drafts = checkpoint.rows(ExitPolicy(static_layer=1, verify="exact"))
    return {
        f"full_depth_{scored}": scores[scored],
        f"static_{scored}": [checkpoint.scores(texts)[scored] for texts in static],
        "agreement": checkpoint.agreement(full),
        "certified": {name: certified(table, way, layers, len(full)) for name, way in WAYS.items()},
        "exact_drafts_layers_read": sum(row.layers_read / len(row.tokens) for row in drafts) / len(drafts),
        "exact_drafts_tokens_per_block": sum(len(row.tokens) for row in drafts)
        / sum(row.drafting.blocks for row in drafts),
        "prompts": len(full),
    }


def table_of(rows: dict[str, dict[str, Any]]) -> str:
    """A row a variant; of deep models the agreement of every second exit."""
    any_row = next(iter(rows.values()))
    (scored,) = (name for name in SCORES if f"full_depth_{name}" in any_row)
    exits = range(1, 1 + len(any_row["agreement"]))
    shown = exits if len(exits) <= _MOST_SHOWN else exits[1::2]
    header = ["variant", SCORES[scored], *(f"agree {layer}" for layer in shown)]
    header += [f"{way}, δ={delta}" for way, found in any_row["certified"].items() for delta in found]
    cells = [header]
    for name, row in rows.items():
        shares = [f"{row['agreement'][layer - 1]:.3f}" for layer in shown]
        found = [f"{each['layers']:.2f}" for way in row["certified"].values() for each in way.values()]
        cells.append([name, f"{row[f'full_depth_{scored}']:.1f}", *shares, *found])
    return markdown_table(cells)


def picture_of(rows: dict[str, dict[str, Any]]) -> Figure:
    """Agreement with full depth against the exit, a line a variant."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, row) in enumerate(rows.items()):
        shares = row["agreement"]
        colour = "black" if name == "start" else colormaps["tab20"](2 * number % 20 + number // 10)
        style = "--" if name.startswith("plain") else "-"
        axes.plot(range(1, 1 + len(shares)), shares, style, color=colour, marker=".", label=name)
    axes.set_xlabel("exit after layer")
    axes.set_ylabel("tokens for which it chooses as full depth")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    commit()  # now: what is measured is what stands there at the start
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("start")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--prefix", default="", help="before every document")
    parser.add_argument("--source_length", type=int, default=128, help="tokens of a document")
    parser.add_argument("--source_lang", help="of translations, as the data names it")
    parser.add_argument("--target_lang")
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    data = data_of(options)

    def checkpoint(folder: str) -> Checkpoint:
        return Checkpoint(folder, data, options.samples)

    start, rows = None, {}
    for variant in options.variants:
        path = options.results / f"{variant}.json"
        folder = options.start if variant == "start" else str(options.folder / variant)
        row, measured = read_json(path), None
        if row is None or row.get("samples", options.samples) != options.samples:
            measured = checkpoint(folder)
            row = {
                "variant": variant,
                "samples": options.samples,
                **figures(measured),
                **provenance(SEED, "cpu"),
                **scoring_rules(),
            }
            row |= data.task.rules()
            row["training"] = read_json(Path(folder) / "train_results.json")
        if "full_depth_loss_to_start" not in row and not variant.startswith("plain"):
            start = start or checkpoint(options.start).texts(ExitPolicy())
            own = (measured or checkpoint(folder)).texts(ExitPolicy())
            far = [1 - rouge_l(*pair) for pair in zip(own, start, strict=True)]
            row["full_depth_loss_to_start"] = sum(far) / len(far)
        write_json(path, row)
        rows[variant] = row
        write_text(options.results / "table.md", table_of(rows) + "\n")
    picture_of(rows).savefig(options.results / "agreement.png", dpi=160)
    print(table_of(rows))


def data_of(options: argparse.Namespace) -> DataArguments:
    """The data's flags, of the task that it is for."""
    flags = {
        "validation_file": options.data,
        "source_prefix": options.prefix,
        "max_source_length": options.source_length,
        "max_target_length": LONGEST,
    }
    if options.source_lang is None:
        return DataArguments(**flags)
    return TranslationArguments(**flags, source_lang=options.source_lang, target_lang=options.target_lang)


if __name__ == "__main__":
    main()
