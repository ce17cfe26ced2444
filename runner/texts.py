"""The texts that a run needs."""

from datasets import Dataset
from transformers.utils import logging

from runner.calibration_tables import Prompts
from runner.values import Job
from util.calibration_data import calibration_texts, document_hashes
from util.data import load_split
from util.errors import UsageError
from util.tokens import Tokenization, tokenize

logger = logging.get_logger(__name__)


def load_texts(job: Job) -> dict[str, Dataset]:
    """By name, the splits as documents and summaries, and "unlabelled" documents to write texts for; for a
    calibration, those of `util.calibration_data`."""
    with job.training.main_process_first(desc="reading data"):
        if job.calibration is not None:
            return calibration_texts(job.calibration.draw, job.data, job.model.checkpoint)
        texts = _splits(job)
    if "test" in texts and "summary" not in texts["test"].column_names:
        if not job.training.predict_with_generate:
            raise UsageError("--do_predict on documents without summaries needs --predict_with_generate")
        logger.warning("the test data has no summaries: there will be no scores")
    return texts


def _splits(job: Job) -> dict[str, Dataset]:
    without, own = {"test"}, job.own_texts  # summaries
    if own is not None and not own.gold_share:
        without.add("train")
    texts = {
        split: load_split(split, job.data, limit, needs_summaries=split not in without)
        for split, limit in job.limits.items()
    }
    if own is not None and own.unlabelled is not None:
        documents = load_split("train", own.unlabelled, None, needs_summaries=False)
        texts["unlabelled"] = documents.select_columns("document")
    return texts


def tokenized_prompts(texts: dict[str, Dataset], tokenizer, how: Tokenization) -> dict[str, Prompts]:
    """For a calibration, by name."""
    return {
        name: Prompts(
            tokenize(examples, tokenizer, how, how.generation_length),
            examples["references"],
            document_hashes(examples),
            examples["group"] if "group" in examples.column_names else None,
        )
        for name, examples in texts.items()
    }
