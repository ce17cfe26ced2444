"""Flags of `generate.py`, and what follows from the checkpoint where they are not given."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from early_exit import PRECISIONS, ExitPolicy
from early_exit.confidence import known_measures
from early_exit.models.calibrated import Certified
from early_exit.policy import VERIFICATIONS
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.files import read_json
from util.flag import argument
from util.run_folder import RUN_FILE
from util.text_files import SUFFIXES, read_rows

_NEW_TOKENS = 128  # of a checkpoint that says nothing of lengths
_SOURCE_TOKENS = 512


@dataclass
class GenerateArguments:
    """What `generate.py` decodes, with which setting."""

    model_name_or_path: str = field(metadata={"help": "T5-family checkpoint: a folder or a hub id."})
    calibration: str | None = argument(
        None, "Output folder of a calibration, whose certified setting decodes; default the checkpoint's own."
    )
    file: str | None = argument(None, f"Texts, one a line; or {', '.join(SUFFIXES)} with --text_column.")
    text_column: str = argument("document", "Column of the texts.")
    source_prefix: str | None = argument(
        None, "Put before every text; default what the checkpoint was calibrated or trained with."
    )
    max_source_length: int | None = argument(
        None, "Tokens of a text that are read; default what the checkpoint was calibrated or trained with."
    )
    max_new_tokens: int | None = argument(
        None, "The most tokens to write; default what the checkpoint was calibrated or trained with."
    )
    exit_conf_type: str | None = argument(None, f"Confidence measure: {known_measures()}.")
    exit_conf_threshold: float | None = argument(None, "λ in [0, 1]: leave where confidence > λ.")
    exit_min_layer: int = argument(0, "Exits are tried from this decoder layer on; 0 means 1.")
    static_exit_layer: str | None = argument(
        None,
        "Every token leaves at this layer, 1 to L; with --exit_conf_threshold at the latest. 'last' is full "
        "depth.",
    )
    verify: str | None = argument(
        None, f"Tokens that leave early are drafts: {', '.join(VERIFICATIONS)}. 'exact' keeps the text."
    )
    max_draft: int | None = argument(
        None, "With --verify: the most drafts that wait for their deeper layers; default 6."
    )
    engine_precision: str | None = argument(
        None, f"What decoding computes in: {', '.join(PRECISIONS)}; default the certified or the model's own."
    )

    def __post_init__(self):
        for name in ("max_source_length", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} {value}; allowed: 1 and above")
        if self.exit_conf_type is not None and self.exit_conf_threshold is None:
            raise UsageError("--exit_conf_type needs --exit_conf_threshold, a number in [0, 1]")
        if self.verify is not None and not self._leaves_early:
            raise UsageError("--verify needs --exit_conf_threshold or --static_exit_layer")
        if self.max_draft is not None and self.verify is None:
            raise UsageError("--max_draft needs --verify")
        if self.exit_min_layer and not self._asks_confidence:
            raise UsageError("--exit_min_layer needs --exit_conf_threshold")
        if self.engine_precision not in (None, *PRECISIONS):
            raise UsageError(
                f"--engine_precision {self.engine_precision!r}; allowed: {', '.join(PRECISIONS)}"
            )

    def policy(self, model) -> ExitPolicy | None:
        """Where tokens leave; None for the setting that the checkpoint has certified. Raises UsageError for
        values outside their ranges and for an exit head that the model lacks."""
        if not self._leaves_early:
            certified = getattr(model.config, "exit_calibration", None) is not None
            return None if certified else ExitPolicy()
        flags = ExitArguments(
            use_early_exit=self._asks_confidence,
            exit_conf_type=self.exit_conf_type,
            exit_conf_threshold=self.exit_conf_threshold,
            exit_min_layer=self.exit_min_layer,
            static_exit_layer=self.static_exit_layer,
            verify=self.verify,
            max_draft=self.max_draft,
        )
        (policy,) = flags.policies.of(model)
        return policy

    @property
    def _asks_confidence(self) -> bool:
        return self.exit_conf_threshold is not None

    @property
    def _leaves_early(self) -> bool:
        return self._asks_confidence or self.static_exit_layer is not None


@dataclass(frozen=True)
class PromptSettings:
    """How texts are put to a model. length: arguments of `generate`."""

    prefix: str
    source_length: int
    length: dict[str, int]


def prompt_settings(options: GenerateArguments, model) -> PromptSettings:
    """As the flags say, else as the model was calibrated, else as `run.json` beside it says that it was
    trained, else defaults."""
    trained = _trained_with(options.model_name_or_path)
    prefix = trained.get("source_prefix") or ""
    source_length = trained.get("max_source_length") or _SOURCE_TOKENS
    target = trained.get("val_max_target_length") or trained.get("max_target_length")
    length = {} if _has_length(model.generation_config) else {"max_new_tokens": _NEW_TOKENS}
    if target is not None:
        length = {"max_length": target}  # the start token is counted, as training's evaluation does
    values = getattr(model.config, "exit_calibration", None)
    if values is not None:
        pipeline = Certified.from_dict(values).pipeline or {}
        prefix = ast.literal_eval(pipeline.get("prefix", repr(prefix)))
        source_length = pipeline.get("source tokens", source_length)
        length = {}  # `generate` takes the calibrated one
    if options.max_new_tokens is not None:
        length = {"max_new_tokens": options.max_new_tokens}
    return PromptSettings(
        prefix if options.source_prefix is None else options.source_prefix,
        options.max_source_length or source_length,
        length,
    )


def read_texts(text: str | None, options: GenerateArguments) -> Iterator[str]:
    """The texts, in turn. Raises UsageError for a file that cannot be read."""
    if text is not None:
        return iter([text])
    if options.file is None:
        return _lines(sys.stdin)
    path = Path(options.file)
    if path.suffix in SUFFIXES:
        columns, rows = read_rows(options.file)
        if options.text_column not in columns:
            raise UsageError(f"{path} has no column {options.text_column!r}; it has: {', '.join(columns)}")
        return iter([str(row.get(options.text_column) or "") for row in rows])
    try:
        with path.open(encoding="utf-8") as file:
            return iter(list(_lines(file)))
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--file {path} is not UTF-8") from error


def _lines(file: TextIO) -> Iterator[str]:
    """The lines of a text file, without their ends and without a byte order mark. `str.splitlines` would also
    cut at characters that a text may hold, such as U+2028."""
    for number, line in enumerate(file):
        yield (line if number else line.removeprefix("\ufeff")).rstrip("\r\n")


def _trained_with(folder: str) -> dict[str, Any]:
    """The settings that a training noted beside the checkpoint, if one did."""
    return (read_json(Path(folder) / RUN_FILE, default={}) or {}).get("settings", {})


def _has_length(config) -> bool:
    return config.max_length is not None or config.max_new_tokens is not None
