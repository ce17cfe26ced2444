"""From documents and summaries to tokens."""

from dataclasses import dataclass

from datasets import Dataset


@dataclass(frozen=True)
class Tokenization:
    """How texts are put to a model.

    prefix: before every document. source_length: tokens of a document that are read; target_length: of a
    summary in training; generation_length: of a generated one at most, the start token included. processes:
    that tokenize, None for this one. cached: whether tokens that were made before will do.
    """

    prefix: str
    source_length: int
    target_length: int
    generation_length: int
    processes: int | None = None
    cached: bool = True


def tokenize(examples: Dataset, tokenizer, how: Tokenization, max_target_length: int) -> Dataset:
    """`input_ids`, `attention_mask` and, of examples with summaries, `labels`, cut to the limits."""

    def encode(batch: dict) -> dict:
        inputs = tokenizer(
            [how.prefix + document for document in batch["document"]],
            max_length=how.source_length,
            truncation=True,
        )
        if "summary" not in batch:
            return dict(inputs)
        targets = tokenizer(text_target=batch["summary"], max_length=max_target_length, truncation=True)
        return {**inputs, "labels": targets["input_ids"]}

    return examples.map(
        encode,
        batched=True,
        num_proc=how.processes,
        remove_columns=examples.column_names,
        load_from_cache_file=how.cached,
        desc="Tokenizing",
    )
