"""`--train_on_own_text`: from documents to the examples that are trained on."""

import random

from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from early_exit import DecodingSetting
from early_exit.models.effective_generation import effective_generation
from runner.values import Run
from trainers.own_texts import greedy_options, write_own_texts
from util.own_text_file import OwnTextFile
from util.pipeline import pipeline_of
from util.tokens import tokenize

logger = logging.get_logger(__name__)


def all_documents(texts: dict[str, Dataset]) -> Dataset:
    """The column "document" of what there is to train on: "train", and "unlabelled" if there is such."""
    parts = [texts[split].select_columns("document") for split in ("train", "unlabelled") if split in texts]
    return concatenate_datasets(parts)


def open_own_texts(run: Run) -> OwnTextFile:
    """The file that keeps what the model writes. Raises UsageError where there is one of another model, or of
    other settings; in the output folder --overwrite_output_dir replaces it."""
    own, training = run.job.own_texts, run.job.training
    effective = effective_generation(run.model, greedy_options(training))
    about = (run.job.tokenization, DecodingSetting(), training.device)  # however evaluation decodes
    pipeline = pipeline_of(run.model, run.tokenizer, effective, *about)
    return OwnTextFile(own.file, pipeline, writes=training.should_save, replace=own.replaces)


def own_text_examples(file: OwnTextFile, run: Run) -> tuple[Dataset, dict[str, int]]:
    """What is trained on, tokenized, and how many texts of each kind there are; writes what `file` lacks.

    One own text for each distinct document, and gold texts beside them as --own_text_gold_share says,
    repeated where there are too few.
    """
    how, training, tokenizer = run.job.tokenization, run.job.training, run.tokenizer
    distinct = list(dict.fromkeys(all_documents(run.texts)["document"]))

    def sources(documents: list[str]) -> Dataset:
        return tokenize(Dataset.from_dict({"document": documents}), tokenizer, how, how.generation_length)

    missing = sorted(file.missing(distinct), key=len, reverse=True)  # alike in length where written together
    if missing:
        logger.warning(f"{len(missing)} of {len(distinct)} own texts are still to be written")
        for numbers, tokens in write_own_texts(run.model, sources(missing)["input_ids"], training):
            written = tokenizer.batch_decode(tokens, skip_special_tokens=True)
            file.add([missing[number] for number in numbers], tokens, written)
    file.finish()
    examples = sources(distinct).add_column("labels", [file.tokens(document) for document in distinct])
    share = run.job.own_texts.gold_share
    wanted = round(len(distinct) * share / (1 - share))
    if wanted:
        places = _draw(len(run.texts["train"]), wanted, training.seed)
        gold = tokenize(run.texts["train"].select(places), tokenizer, how, how.target_length)
        examples = concatenate_datasets([examples, gold.cast(examples.features)])
    return examples, {"own_texts": len(distinct), "gold_texts": wanted}


def _draw(population: int, count: int, seed: int) -> list[int]:
    """Places of so many examples at random: all of them before any comes again."""
    generator, places = random.Random(seed), []
    while len(places) < count:
        places += generator.sample(range(population), min(population, count - len(places)))
    return places
