"""Flags: what to load, and what to read. transformers' training arguments come beside them."""

from dataclasses import dataclass

from early_exit.models.shapes import SHAPES
from util.data import DataSource
from util.flag import argument
from util.tasks import SUMMARIZATION, Task
from util.tokens import Tokenization


@dataclass
class ModelArguments:
    """Which model."""

    model_name_or_path: str | None = argument(None, "T5 or mT5 checkpoint: a folder or a hub id.")
    model_shape: str | None = argument(
        None, f"Start from random weights in this shape instead: {', '.join(SHAPES)}."
    )
    tokenizer_name: str | None = argument(
        None, "Tokenizer, if not the model's own. A model that starts from nothing trains one otherwise."
    )
    tokenizer_vocab_size: int = argument(2000, "The most pieces of a tokenizer that is trained here.")
    dropout_rate: float | None = argument(None, "Dropout in training, if not the model's own.")
    cache_dir: str | None = argument(None, "Where downloads are kept.")
    model_revision: str = argument("main", "Branch, tag or commit of a hub model.")
    token: str | None = argument(None, "Access token for the hub.")
    trust_remote_code: bool = argument(False, "Run code that a hub repository brings along.")


@dataclass
class DataArguments:
    """Which documents and summaries, and how much of them."""

    dataset_name: str | None = argument(
        None, "Hub id, such as abisee/cnn_dailymail, or 'embedded' for the corpus made here."
    )
    dataset_config_name: str | None = argument(None, "Configuration of a hub data set, such as 3.0.0.")
    train_file: str | None = argument(None, "Training examples: .json, .jsonl or .csv.")
    validation_file: str | None = argument(None, "Examples for --do_eval.")
    test_file: str | None = argument(None, "Examples for --do_predict.")
    text_column: str | None = argument(
        None, "Column of the documents; not needed for the data sets that are known by name."
    )
    summary_column: str | None = argument(
        None, "Column of the summaries; not needed for the data sets that are known by name."
    )
    source_prefix: str | None = argument(None, "Put before every document, such as 'summarize: '.")
    max_source_length: int = argument(512, "Tokens of a document that are read; the rest is cut off.")
    max_target_length: int = argument(128, "Tokens of a summary in training.")
    val_max_target_length: int | None = argument(
        None, "Tokens of a generated summary at most, the start token included; default --max_target_length."
    )
    max_train_samples: int | None = argument(None, "Use only this many training examples, the first ones.")
    max_eval_samples: int | None = argument(None, "Use only this many validation examples, the first ones.")
    max_predict_samples: int | None = argument(
        None,
        "Use only this many test examples, the first ones; in a calibration, the prompts of "
        "the held-out check.",
    )
    num_beams: int | None = argument(None, "Beams of transformers' own decoding; exits decode without.")
    preprocessing_num_workers: int | None = argument(None, "Processes that tokenize.")
    overwrite_cache: bool = argument(False, "Tokenize anew even where a cached result exists.")

    def check(self) -> None:
        """Raises UsageError for flags of this task alone that are missing or contradict each other."""

    @property
    def task(self) -> Task:
        """Which task the data is of."""
        return SUMMARIZATION

    @property
    def columns(self) -> dict[str, str | None]:
        """Flag → column that it names, of the sources and last of the target."""
        return {"--text_column": self.text_column, "--summary_column": self.summary_column}

    @property
    def generation_length(self) -> int:
        """Longest generated sequence in tokens, the decoder's start token included."""
        return self.val_max_target_length or self.max_target_length

    def source(self, **hub: str | None) -> DataSource:
        """Where examples come from. hub: as in `DataSource`."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return DataSource(
            self.task,
            self.columns,
            name=self.dataset_name,
            configuration=self.dataset_config_name,
            files={split: file for split, file in files.items() if file is not None},
            hub=hub,
            cached=not self.overwrite_cache,
        )

    @property
    def tokenization(self) -> Tokenization:
        """What is made of texts."""
        return Tokenization(
            self.source_prefix or "",
            self.max_source_length,
            self.max_target_length,
            self.generation_length,
            processes=self.preprocessing_num_workers,
            cached=not self.overwrite_cache,
        )
