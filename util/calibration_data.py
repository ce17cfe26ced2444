"""Prompts to calibrate with and prompts to check with: drawn at random, none twice, none seen in training."""

import hashlib
import random
from pathlib import Path

from datasets import Dataset

from util.arguments import DataArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.data import load_split
from util.errors import UsageError
from util.files import write_text

_TRAINING_DOCUMENTS = "training_documents.txt"  # beside a checkpoint: a hash a line


def calibration_texts(
    model_args: ModelArguments, data: DataArguments, calibration: CalibrationArguments, seed: int
) -> dict[str, Dataset]:
    """`calibration`: --max_calibrate_samples validation examples, drawn with the seed, and `held_out`: up to
    --max_predict_samples to check with. These come from the test split where the data set has one, from the
    other validation examples otherwise; missing if there are none.

    Of examples with one document only the first counts. Raises UsageError where there are too few, and where
    a document was trained on or stands in both splits.
    """
    validation = _distinct(load_split("validation", data, model_args, None))
    wanted = calibration.max_calibrate_samples
    if len(validation) < wanted:
        raise UsageError(
            f"--max_calibrate_samples {wanted}, but the validation data holds {len(validation)} distinct "
            "documents"
        )
    order = list(range(len(validation)))
    random.Random(seed).shuffle(order)
    chosen = validation.select(order[:wanted])
    if data.dataset_name is None and data.test_file is None:
        rest = validation.select(order[wanted:])
    else:
        rest = _distinct(load_split("test", data, model_args, None))
        both = set(map(_hash, chosen["document"])) & set(map(_hash, rest["document"]))
        if both:
            raise UsageError(f"{len(both)} documents stand in both validation and test data")
    rest = rest.select(range(min(len(rest), data.max_predict_samples or len(rest))))
    texts = {"calibration": chosen} | ({"held_out": rest} if len(rest) > 1 else {})
    _check_unseen(texts, model_args)
    return texts


def save_training_documents(texts: dict[str, Dataset], model_args: ModelArguments, folder: Path) -> None:
    """Leaves hashes of the documents trained on, and of those that the model was trained on before, beside
    the model."""
    hashes = set(map(_hash, texts["train"]["document"])) | _trained_on(model_args)
    write_text(folder / _TRAINING_DOCUMENTS, "\n".join(sorted(hashes)) + "\n")


def _check_unseen(texts: dict[str, Dataset], model_args: ModelArguments) -> None:
    trained = _trained_on(model_args)
    for name, examples in texts.items():
        seen = sum(_hash(document) in trained for document in examples["document"])
        if seen:
            raise UsageError(
                f"{seen} of the {name.replace('_', '-')} documents are among those that the model was "
                "trained on: a guarantee needs documents that it has not seen"
            )


def _trained_on(model_args: ModelArguments) -> set[str]:
    path = Path(model_args.model_name_or_path or "") / _TRAINING_DOCUMENTS
    return set(path.read_text(encoding="ascii").split()) if path.is_file() else set()


def _distinct(examples: Dataset) -> Dataset:
    first = {}
    for number, document in enumerate(examples["document"]):
        first.setdefault(_hash(document), number)
    return examples.select(first.values())


def _hash(document: str) -> str:
    return hashlib.sha256(" ".join(document.split()).encode()).hexdigest()[:16]
