"""What training left in the exits: agreement with full depth, and what calibration certifies.

    python -m benchmarks.own_text ../shared/checkpoints/e2e-small save/own_text \
        --data ../shared/data/e2e/validation.json --variants start own gold \
        --results benchmarks/results/own_text

Called by own_text.sh. "start" is the first model, other variants are folders of the second argument. For
each: full depth's ROUGE-L; the share of its own text's tokens that each exit, teacher-forced, chooses too;
for each δ (textual, ε = 0.05, all records) the layers of the certified softmax threshold, with propagated
states and with exact keys and values (parallel drafts); the layers that exact drafts from layer 1 read for
a token; and how far full depth's texts are from the start's, in 1 − ROUGE-L. A JSON file a variant, which is
not measured again, and a table of all.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Seq2SeqTrainingArguments

from early_exit import DecodingSetting, ExitPolicy
from early_exit.calibration import calibrate
from early_exit.models.head_training import agreement_with_full_depth
from early_exit.models.loading import load_model
from early_exit.models.sources import padded_batch
from trainers.loss_table import LossTable, PromptDecoder, as_array
from util.arguments import DataArguments
from util.data import load_split
from util.dissimilarity import rouge_l
from util.files import read_json, write_json, write_text
from util.metrics import rouge_against, scoring_rules
from util.results import markdown_table, provenance
from util.tokens import Tokenization, tokenize

DELTAS, EPSILON, SEED = (0.05, 0.1), 0.05, 0
THRESHOLDS = [percent / 100 for percent in (98, 95, *range(90, 25, -5))]
WAYS = {"propagated": {}, "exact keys/values": {"verify": "parallel", "max_draft": 64}}


def agreement(model, sources: list[list[int]], texts: list[list[int]]) -> list[float]:
    """Of each exit below full depth: the share of tokens for which it chooses as full depth does."""
    agrees = torch.zeros(model.num_exits - 1)
    tokens = 0
    for first in range(0, len(sources), 32):
        inputs, mask = padded_batch([torch.tensor(each) for each in sources[first : first + 32]])
        labels, kept = padded_batch([torch.tensor(each) for each in texts[first : first + 32]])
        seen = agreement_with_full_depth(model, inputs, mask, labels.masked_fill(kept == 0, -100))
        agrees += seen.agrees[:, seen.kept].sum(1)
        tokens += int(seen.kept.sum())
    return (agrees / tokens).tolist()


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


class Checkpoint:
    """A model with what it decodes: the documents of some examples."""

    def __init__(self, folder: str, examples):
        self.model, self._examples = load_model(folder).eval(), examples
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        how = Tokenization("summarize: ", source_length=128, target_length=64, generation_length=64)
        self.tokens = tokenize(examples, self._tokenizer, how, 64)
        training = Seq2SeqTrainingArguments(
            "unused", use_cpu=True, per_device_eval_batch_size=32, generation_max_length=64, report_to="none"
        )
        self.decoder = PromptDecoder(self.model, training, self.tokens)

    def decode(self, policy: ExitPolicy):
        """Every document's text, in float32."""
        return self.decoder.decode(range(len(self.tokens)), policy, "float32")

    def text(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)

    def full_texts(self) -> list[str]:
        return [self.text(each.tokens) for each in self.decode(ExitPolicy())]

    def figures(self) -> dict[str, Any]:
        """What the table shows, and more."""

        def score(prompt: int, early: list[int], full: list[int]) -> tuple[float, float]:
            return 1 - rouge_l(self.text(early), self.text(full)), 0.0

        table = LossTable(self.decoder, score)
        full = table.full
        drafts = self.decode(ExitPolicy(static_layer=1, verify="exact"))
        layers = self.model.num_exits
        return {
            "full_depth_rougeL": rouge_against(self._examples["summary"], self._tokenizer)(full)["rougeL"],
            "agreement": agreement(self.model, self.tokens["input_ids"], full),
            "certified": {name: certified(table, way, layers, len(full)) for name, way in WAYS.items()},
            "exact_drafts_layers_read": sum(each.layers for each in drafts) / len(drafts),
            "prompts": len(full),
        }


def table_of(rows: dict[str, dict[str, Any]]) -> str:
    """A row a variant."""
    header = ["variant", "ROUGE-L"]
    any_row = next(iter(rows.values()))
    header += [f"agree {layer}" for layer in range(1, 1 + len(any_row["agreement"]))]
    header += [f"{way}, δ={delta}" for way, found in any_row["certified"].items() for delta in found]
    cells = [header, *([name, *_cells(row)] for name, row in rows.items())]
    return markdown_table(cells)


def _cells(row: dict[str, Any]) -> list[str]:
    found = [each for way in row["certified"].values() for each in way.values()]
    return [
        f"{row['full_depth_rougeL']:.1f}",
        *(f"{share:.3f}" for share in row["agreement"]),
        *(f"{each['layers']:.2f}" for each in found),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("start")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--samples", type=int)
    options = parser.parse_args()
    source = DataArguments(validation_file=options.data).source()
    examples = load_split("validation", source, options.samples)
    start, rows = None, {}
    for variant in options.variants:
        path = options.results / f"{variant}.json"
        folder = options.start if variant == "start" else str(options.folder / variant)
        row, checkpoint = read_json(path), None
        if row is None:
            checkpoint = Checkpoint(folder, examples)
            row = {"variant": variant, **checkpoint.figures(), **provenance(SEED, "cpu"), **scoring_rules()}
            row["training"] = read_json(Path(folder) / "train_results.json")
        if "full_depth_loss_to_start" not in row:
            start = start or Checkpoint(options.start, examples).full_texts()
            own = (checkpoint or Checkpoint(folder, examples)).full_texts()
            far = [1 - rouge_l(*pair) for pair in zip(own, start, strict=True)]
            row["full_depth_loss_to_start"] = sum(far) / len(far)
            write_json(path, row)
        rows[variant] = read_json(path)
        write_text(options.results / "table.md", table_of(rows) + "\n")
    print(table_of(rows))


if __name__ == "__main__":
    main()
