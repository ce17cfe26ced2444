"""The exits of a translation model on a test set: BLEU, chrF, and how often each agrees with full depth.

    python -m benchmarks.multi30k_exits save/multi30k --data ../shared/data/multi30k/test.json \
        --source_lang de --target_lang en --json benchmarks/results/multi30k/trained.json

For each static exit: corpus BLEU and chrF of its text (sacreBLEU), the mean 1 − chrF to full depth's text,
the share of texts that are full depth's, and the share of the tokens of full depth's text for which it,
teacher-forced, chooses the same.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.checkpoint import LONGEST, Checkpoint
from early_exit import ExitPolicy
from util.bleu import sentence_chrf, translation_rules
from util.files import read_json, write_json
from util.results import commit, markdown_table, provenance
from util.task_arguments import TranslationArguments


def exits_of(folder: str, data: TranslationArguments, samples: int | None) -> list[dict[str, Any]]:
    """A row an exit layer, from the first to full depth."""
    checkpoint = Checkpoint(folder, data, samples)
    full_tokens = [row.tokens for row in checkpoint.decode(ExitPolicy())]
    full_texts = [checkpoint.text(each) for each in full_tokens]
    shares = [*checkpoint.agreement(full_tokens), 1.0]
    rows = []
    for layer, share in enumerate(shares, start=1):
        texts = full_texts if layer == len(shares) else checkpoint.texts(ExitPolicy(static_layer=layer))
        pairs = list(zip(texts, full_texts, strict=True))
        rows.append(
            {
                "layer": layer,
                **checkpoint.scores(texts),
                "loss_to_full_depth": sum(1 - sentence_chrf(*pair) for pair in pairs) / len(pairs),
                "same_text": sum(text == full for text, full in pairs) / len(pairs),
                "agreement": share,
            }
        )
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    """A row an exit."""
    cells = [["exit layer", "BLEU", "chrF", "1 − chrF to full depth's text", "same text", "agreement"]]
    for row in rows:
        scores = [f"{row[name]:.1f}" for name in ("bleu", "chrf")]
        shares = [f"{row[name]:.3f}" for name in ("loss_to_full_depth", "same_text", "agreement")]
        cells.append([str(row["layer"]), *scores, *shares])
    return markdown_table(cells)


def main() -> None:
    commit()  # now: what is measured is what stands there at the start
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="folder of a trained checkpoint")
    parser.add_argument("--data", required=True)
    parser.add_argument("--source_lang", required=True)
    parser.add_argument("--target_lang", required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    data = TranslationArguments(
        validation_file=options.data,
        source_lang=options.source_lang,
        target_lang=options.target_lang,
        max_source_length=LONGEST,
    )
    rows = exits_of(options.model, data, options.samples)
    training = read_json(Path(options.model) / "train_results.json")
    about = {"training": training, **provenance(0, "cpu"), **translation_rules(data.target_lang)}
    write_json(options.json, {"exits": rows, **about})
    print(table_of(rows))


if __name__ == "__main__":
    main()
