"""How long blocks of drafts should wait for each other: exact drafts in batches, by the share of rows that
have to wait before a block runs.

    python -m benchmarks.block_share save/headline/e2e/wide ../shared/data/e2e/validation.json \
        --json benchmarks/results/drafts/block_share.json

All settings write full depth's texts, which is checked, and take turns; the decoder alone, by continuous
batching. `times_full_depth`: full depth's best time over a setting's best time. The model needs a token
ranking (`runner.rank_tokens`): drafts choose from its first tokens.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from transformers import AutoTokenizer

from benchmarks.records import pairs, source_tokens
from early_exit import ExitPolicy
from early_exit.models.engines import engine_for
from early_exit.models.loading import load_model
from early_exit.models.sources import Source, encode_all
from early_exit.models.stream import decode_prompts
from util.files import write_json
from util.results import commit, markdown_table, provenance, setting_name

SHARES = (0.01, 0.3, 0.5, 0.75, 1.0)


def policies(num_layers: int, shortlist: int) -> list[ExitPolicy]:
    """Exact drafts at fixed layers and by confidence."""
    third, exact = max(1, round(num_layers / 3)), {"verify": "exact", "shortlist": shortlist}
    return [
        ExitPolicy(static_layer=1, max_draft=2, **exact),
        ExitPolicy(static_layer=third, max_draft=3, **exact),
        ExitPolicy(measure="softmax", threshold=0.3, max_layer=1, max_draft=10, **exact),
        ExitPolicy(measure="softmax", threshold=0.5, max_layer=third, max_draft=4, **exact),
        ExitPolicy(measure="softmax", threshold=0.8, max_layer=third, max_draft=8, **exact),
    ]


def compare(
    decode: Callable[[ExitPolicy], list[list[int]]], drafts: list[ExitPolicy], turns: int
) -> list[dict]:
    """A row for each setting and share, and one of full depth."""
    settings = [(ExitPolicy(), 0.0), *((policy, share) for policy in drafts for share in SHARES)]
    seconds: list[list[float]] = [[] for _ in settings]
    full = decode(ExitPolicy())
    for _ in range(turns):
        for (policy, share), own in zip(settings, seconds, strict=True):
            with patch("early_exit.decoding.drafts.BLOCK_SHARE", share):
                begin = time.perf_counter()
                texts = decode(policy)
                own.append(time.perf_counter() - begin)
            if texts != full:
                raise RuntimeError(f"{setting_name(policy)} wrote other texts than full depth")
    return [
        {
            "setting": setting_name(policy),
            "share": share,
            "seconds": own,
            "times_full_depth": min(seconds[0]) / min(own),
        }
        for (policy, share), own in zip(settings, seconds, strict=True)
    ]


def table(rows: list[dict]) -> str:
    """Drafts × shares: how many times as fast as full depth."""
    cells = [["drafts", *(f"{share:g}" for share in SHARES)]]
    for first in range(1, len(rows), len(SHARES)):
        own = rows[first : first + len(SHARES)]
        cells.append([own[0]["setting"], *(f"{row['times_full_depth']:.2f}" for row in own)])
    return markdown_table(cells)


def decoding(options: argparse.Namespace, model) -> Callable[[ExitPolicy], list[list[int]]]:
    """A call that writes the records' texts by a policy. Their sources are encoded once."""
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    documents = [document for document, _ in pairs(options.data)][: options.records]
    sources = [
        Source.of(torch.tensor(tokens)) for tokens in source_tokens(documents, tokenizer, 256, options.prefix)
    ]
    encoder = engine_for(model, ExitPolicy(), options.precision).encoder
    states = encode_all(encoder, sources, options.rows, model.device)
    limits = {"max_length": options.new_tokens + 1, "num_beams": 1}

    def decode(policy: ExitPolicy) -> list[list[int]]:
        texts = decode_prompts(model, policy, options.precision, sources, options.rows, limits, states)
        return [row.tokens for row in texts.rows]

    return decode


def main() -> None:
    """Prints the table; with --json writes it as well."""
    commit()  # now: what is measured is what stands there at the start
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--prefix", default="summarize: ")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="texts that are written at a time")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--shortlist", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = load_model(options.model).eval()
    drafts = policies(model.config.num_decoder_layers, options.shortlist)
    rows = compare(decoding(options, model), drafts, options.turns)
    print(table(rows))
    if options.json is not None:
        about = {"precision": options.precision, "rows_at_a_time": options.rows, "records": options.records}
        write_json(options.json, {**provenance(0, "cpu"), **about, "rows": rows})


if __name__ == "__main__":
    main()
