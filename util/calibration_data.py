"""Prompts to calibrate with and prompts to check with: drawn at random, none twice, none seen in training."""

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from util.data import DataSource, has_split, load_split
from util.errors import UsageError
from util.files import write_text

_TRAINING_DOCUMENTS = "training_documents.txt"  # beside a checkpoint: a hash a line


@dataclass(frozen=True)
class Draw:
    """Which prompts are drawn. calibrate: how many to calibrate with; check: how many to check with at most,
    None for all. group: the column of their groups, if there is one."""

    calibrate: int
    check: int | None
    seed: int
    group: str | None = None


def calibration_texts(draw: Draw, data: DataSource, checkpoint: str | None) -> dict[str, Dataset]:
    """`calibration`: validation examples, drawn with the seed, and `held_out`: examples to check with. These
    come from the test split where the data set has one, from the other validation examples otherwise; missing
    if there are none.

    Which validation examples are drawn follows from the seed; the order in which bets read them, and which
    examples check, follow from the documents alone: another seed over the same prompts is no further try.
    Examples with one document are one, with all of their summaries as "references", a list. Raises
    UsageError where there are too few, and where a document stands in both splits or the checkpoint was
    trained on it.
    """
    validation = _distinct(load_split("validation", data, None, group_column=draw.group))
    wanted = draw.calibrate
    if len(validation) < wanted:
        raise UsageError(
            f"--max_calibrate_samples {wanted}, but the validation data holds {len(validation)} distinct "
            "documents"
        )
    order = list(range(len(validation)))
    random.Random(draw.seed).shuffle(order)
    chosen = _in_fixed_order(validation.select(order[:wanted]), "calibration")
    if has_split("test", data):
        rest = _distinct(load_split("test", data, None, group_column=draw.group))
        both = set(map(_hash, chosen["document"])) & set(map(_hash, rest["document"]))
        if both:
            raise UsageError(f"{len(both)} documents stand in both validation and test data")
    else:
        rest = validation.select(order[wanted:])
    rest = _in_fixed_order(rest, "held out")
    rest = rest.select(range(min(len(rest), draw.check or len(rest))))
    texts = {"calibration": chosen} | ({"held_out": rest} if len(rest) > 1 else {})
    _check_unseen(texts, checkpoint)
    return texts


def document_hashes(examples: Dataset) -> list[str]:
    """Of the documents, spaces aside."""
    return list(map(_hash, examples["document"]))


def _in_fixed_order(examples: Dataset, salt: str) -> Dataset:
    """By a hash of the documents: a random order that nobody chooses."""
    keys = [hashlib.sha256(f"{salt} {each}".encode()).digest() for each in document_hashes(examples)]
    return examples.select(sorted(range(len(keys)), key=keys.__getitem__))


def save_training_documents(examples: Dataset, checkpoint: str | None, folder: Path) -> None:
    """Leaves hashes of the documents trained on, and of those that the checkpoint was trained on before, if
    training started from one, beside the model."""
    hashes = set(document_hashes(examples)) | _trained_on(checkpoint)
    write_text(folder / _TRAINING_DOCUMENTS, "\n".join(sorted(hashes)) + "\n")


def _check_unseen(texts: dict[str, Dataset], checkpoint: str | None) -> None:
    trained = _trained_on(checkpoint)
    for name, examples in texts.items():
        seen = sum(_hash(document) in trained for document in examples["document"])
        if seen:
            raise UsageError(
                f"{seen} of the {name.replace('_', '-')} documents are among those that the model was "
                "trained on: a guarantee needs documents that it has not seen"
            )


def _trained_on(checkpoint: str | None) -> set[str]:
    path = Path(checkpoint or "") / _TRAINING_DOCUMENTS
    return set(path.read_text(encoding="ascii").split()) if path.is_file() else set()


def _distinct(examples: Dataset) -> Dataset:
    """Each document once, the first of its examples, with the summaries of all of them."""
    numbers: dict[str, list[int]] = {}
    for number, key in enumerate(document_hashes(examples)):
        numbers.setdefault(key, []).append(number)
    several = "references" in examples.column_names
    right = examples["references"] if several else [[summary] for summary in examples["summary"]]
    references = [
        list(dict.fromkeys(text for one in same for text in right[one])) for same in numbers.values()
    ]
    first = examples.select([same[0] for same in numbers.values()])
    return (first.remove_columns("references") if several else first).add_column("references", references)


def _hash(document: str) -> str:
    return hashlib.sha256(" ".join(document.split()).encode()).hexdigest()[:16]
