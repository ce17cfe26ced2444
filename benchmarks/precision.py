"""How far int8 and bfloat16 text is from float32 text, on a trained model.

    python -m benchmarks.precision --model save/e2e --file ../shared/data/e2e/validation.json \
        --json benchmarks/results/precision.json

At full depth and with softmax exits: the share of tokens and of texts that are float32's, and ROUGE-L to the
references. A token counts as identical at the same place of its text; after a first difference few are.
"""

import argparse
from itertools import zip_longest
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer

from early_exit import PRECISIONS, ExitPolicy
from early_exit.models.loading import load_model
from util.files import write_json
from util.metrics import rouge_against, scoring_rules
from util.results import commit, markdown_table, provenance


def decode(model, inputs: list[dict], policy: ExitPolicy, precision: str, new_tokens: int) -> list[dict]:
    """`tokens` and `layers` of every text, up to its end token."""
    end, texts = model.generation_config.eos_token_id, []
    for batch in inputs:
        output = model.generate(
            **batch,
            max_new_tokens=new_tokens,
            exit_policy=policy,
            engine_precision=precision,
            return_dict_in_generate=True,
        )
        for row, tokens in enumerate(output.sequences[:, 1:].tolist()):
            length = tokens.index(end) + 1 if end in tokens else len(tokens)
            layers = output.exit_layers[row, :length].tolist()
            texts.append({"tokens": tokens[:length], "layers": layers})
    return texts


def compare(texts: list[dict], exact: list[dict]) -> dict:
    """Shares of tokens and texts that are the exact ones, and the mean layers of a token."""
    pairs = [
        pair
        for text, other in zip(texts, exact, strict=True)
        for pair in zip_longest(text["tokens"], other["tokens"])
    ]
    layers = [layer for text in texts for layer in text["layers"]]
    return {
        "tokens_identical": sum(own == other for own, other in pairs) / len(pairs),
        "texts_identical": sum(
            text["tokens"] == other["tokens"] for text, other in zip(texts, exact, strict=True)
        )
        / len(texts),
        "block_avg": sum(layers) / len(layers),
    }


@torch.no_grad()
def measure(options) -> tuple[list[dict], int]:
    """A row a policy and precision; and of how many texts."""
    model, tokenizer = load_model(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    examples = list(Dataset.from_json(str(options.file)))
    documents = [options.prefix + example["document"] for example in examples]
    inputs = [
        tokenizer(documents[first : first + options.batch], padding=True, return_tensors="pt")
        for first in range(0, len(documents), options.batch)
    ]
    rouge = rouge_against([example["summary"] for example in examples], tokenizer)
    policies = {"full depth": ExitPolicy()} | {
        f"softmax λ={threshold:g}": ExitPolicy(measure="softmax", threshold=threshold)
        for threshold in options.thresholds
    }
    rows = []
    for name, policy in policies.items():
        decoded = {
            precision: decode(model, inputs, policy, precision, options.new_tokens)
            for precision in PRECISIONS
        }
        for precision, texts in decoded.items():
            score = rouge([text["tokens"] for text in texts])["rougeL"]
            rows.append(
                {"policy": name, "precision": precision, "rougeL": score} | compare(texts, decoded["float32"])
            )
    return rows, len(examples)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--file", type=Path, required=True, help="JSON lines of document and summary")
    parser.add_argument("--prefix", default="summarize: ")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Prints the table; with --json writes it as well."""
    commit()  # now: what is measured is what stands there at the start
    options = read_options()
    rows, texts = measure(options)
    header = ["policy", "precision", "tokens as in float32", "texts as in float32", "ROUGE-L", "block_avg"]
    lines = [
        [
            row["policy"],
            row["precision"],
            f"{row['tokens_identical']:.1%}",
            f"{row['texts_identical']:.1%}",
            f"{row['rougeL']:.2f}",
            f"{row['block_avg']:.2f}",
        ]
        for row in rows
    ]
    print(markdown_table([header, *lines]))
    if options.json is not None:
        environment = provenance(0, "cpu") | scoring_rules() | {"texts": texts}
        write_json(options.json, {"environment": environment, "rows": rows})


if __name__ == "__main__":
    main()
