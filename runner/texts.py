"""The texts that a run needs."""

from datasets import Dataset
from transformers.utils import logging

from runner.calibration_tables import Prompts
from runner.own_text import load_unlabelled
from util.arguments import DataArguments
from util.calibration_data import calibration_texts, document_hashes
from util.command_line import Arguments
from util.data import load_split, tokenize
from util.errors import UsageError

logger = logging.get_logger(__name__)


def load_texts(arguments: Arguments) -> dict[str, Dataset]:
    """By name, the splits as documents and summaries, and "unlabelled" documents to write texts for; for a
    calibration, those of `util.calibration_data`."""
    model, data, exits, calibration, training = arguments
    if calibration.do_cali:
        with training.main_process_first(desc="reading data"):
            return calibration_texts(model, data, calibration, training.seed)
    wanted = {
        "train": (training.do_train, data.max_train_samples),
        "validation": (training.do_eval, data.max_eval_samples),
        "test": (training.do_predict, data.max_predict_samples),
    }
    without = {"test"}  # summaries
    if exits.train_on_own_text and not exits.own_text_gold_share:
        without.add("train")
    with training.main_process_first(desc="reading data"):
        texts = {
            split: load_split(split, data, model, limit, needs_summaries=split not in without)
            for split, (needed, limit) in wanted.items()
            if needed
        }
        if exits.unlabelled_file is not None:
            texts["unlabelled"] = load_unlabelled(exits, data, model)
    if "test" in texts and "summary" not in texts["test"].column_names:
        if not training.predict_with_generate:
            raise UsageError("--do_predict on documents without summaries needs --predict_with_generate")
        logger.warning("the test data has no summaries: there will be no scores")
    return texts


def tokenized_prompts(texts: dict[str, Dataset], tokenizer, data: DataArguments) -> dict[str, Prompts]:
    """For a calibration, by name."""
    length = data.generation_length
    return {
        name: Prompts(
            tokenize(examples, tokenizer, data, length),
            examples["references"],
            document_hashes(examples),
            examples["group"] if "group" in examples.column_names else None,
        )
        for name, examples in texts.items()
    }
