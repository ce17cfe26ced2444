"""Source texts that no one has seen: the first half of one document and the second half of another.

    python -m benchmarks.mixed_documents ../shared/data/multi30k/train.json mixed.json --count 12800

For training on own texts. What a model that was trained for long writes for its training documents it knows
by heart, and exits that learn it agree less with full depth on other documents.
"""

import argparse
import json
import random
from pathlib import Path

from benchmarks.records import pairs
from util.files import write_text


def mixed(documents: list[str], count: int, seed: int) -> list[str]:
    """So many texts, each of the first half of a document's words and the second half of another's."""
    generator = random.Random(seed)
    return [_joined(generator.choice(documents), generator.choice(documents)) for _ in range(count)]


def _joined(one: str, other: str) -> str:
    first, second = one.split(), other.split()
    return " ".join(first[: max(1, len(first) // 2)] + second[len(second) // 2 :])


def main() -> None:
    """Writes JSON lines of one column."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", help="JSON lines as headline.py reads them")
    parser.add_argument("output", type=Path)
    parser.add_argument("--column", default="de")
    parser.add_argument("--count", type=int, default=12800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = mixed([source for source, _ in pairs(options.data)], options.count, options.seed)
    lines = [json.dumps({options.column: text}, ensure_ascii=False) for text in texts]
    write_text(options.output, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
