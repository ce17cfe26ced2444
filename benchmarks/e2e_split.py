"""Splits E2E's records by document, so that calibration and its check see documents that training does not.

    python -m benchmarks.e2e_split --data ../shared/data/e2e --held-out 700 --output save/e2e_split

A document of E2E has about four summaries. train.json gets all records of the documents that stay; and
unseen.json the first record of each document held out and of each validation document, in random order.
"""

import argparse
import json
import random
from pathlib import Path

from benchmarks.records import read_records
from util.files import write_text


def main() -> None:
    """Writes the two files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/e2e"))
    parser.add_argument("--held-out", type=int, default=700, help="documents taken out of train.json")
    parser.add_argument("--output", type=Path, default=Path("save/e2e_split"))
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    train, validation = (read_records(options.data / f"{split}.json") for split in ("train", "validation"))
    documents = sorted({record["document"] for record in train})
    drawn = random.Random(options.seed)
    held_out = set(drawn.sample(documents, options.held_out))
    unseen = [record for record in train if record["document"] in held_out] + validation
    first = list({record["document"]: record for record in reversed(unseen)}.values())
    drawn.shuffle(first)
    options.output.mkdir(parents=True, exist_ok=True)
    stays = [record for record in train if record["document"] not in held_out]
    for name, records in (("train", stays), ("unseen", first)):
        write_text(options.output / f"{name}.json", "".join(json.dumps(each) + "\n" for each in records))
        print(f"{options.output / name}.json: {len(records)} records")


if __name__ == "__main__":
    main()
