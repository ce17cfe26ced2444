"""What a run is to do, as plain values, and what its stages hand on. `runner.job_of_flags` makes them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, Seq2SeqTrainingArguments

from early_exit import DecodingSetting, ExitPolicy
from runner.methods import Method
from trainers.generation import GenerationSettings
from util.calibration_data import Draw
from util.calibration_plan import CalibrationPlan
from util.data import DataSource
from util.metrics import scoring_rules
from util.policies import Policies
from util.results import provenance
from util.tokens import Tokenization


@dataclass(frozen=True)
class ModelSource:
    """A model to load, or to make.

    checkpoint: a folder or hub id; None for random weights in a `shape` of `SHAPES`. tokenizer: a folder or
    hub id; None for the checkpoint's own, or, without one, for a new tokenizer of at most `pieces` pieces.
    dropout: in training, None for the model's own. hub: options of `from_pretrained`.
    """

    checkpoint: str | None
    shape: str | None
    tokenizer: str | None
    pieces: int
    dropout: float | None
    hub: Mapping[str, Any]


@dataclass(frozen=True)
class OwnTexts:
    """Training on what the model writes. file: where that is kept; replaces: start anew where it holds other
    texts. gold_share: of texts that are the data's own. unlabelled: further documents."""

    file: Path
    replaces: bool
    gold_share: float
    unlabelled: DataSource | None


@dataclass(frozen=True)
class Evaluation:
    """How texts are generated.

    policies: where tokens leave. shared: what their settings have in common. exits: whether this project's
    engine decodes rather than transformers' `generate`. sweeps: whether results go into a table; retimes:
    whether its points are measured again whose times were disturbed.
    """

    policies: Policies
    shared: GenerationSettings
    exits: bool
    sweeps: bool
    retimes: bool

    def settings(self, policy: ExitPolicy) -> GenerationSettings:
        """One policy's."""
        return replace(self.shared, policy=policy if self.exits else None)

    @property
    def full_depth(self) -> DecodingSetting:
        """Full depth in this precision, with this LM head."""
        screen = self.policies.listed[0].screen
        return DecodingSetting(ExitPolicy(screen=screen), self.shared.precision or "float32")


@dataclass(frozen=True)
class CalibrationJob:
    """plan: what is certified; draw: on which prompts; reference: against whose texts, None for the model's
    own. spends: whether attempts on the same prompts share ε; saves: whether the verdict is left with the
    checkpoint. text_file: where decoded texts are kept, if anywhere."""

    plan: CalibrationPlan
    draw: Draw
    reference: ModelSource | None
    spends: bool
    saves: bool
    text_file: Path | None


@dataclass(frozen=True)
class Output:
    """The folder for results. overwrite: use it even where it is not empty. settings: what the results depend
    on, as JSON values; files: data whose contents they depend on; weights: the same of the checkpoint."""

    folder: Path
    overwrite: bool
    settings: dict[str, Any]
    files: list[Path]
    weights: list[Path]


@dataclass(frozen=True)
class Job:
    """What a run is to do. limits: how many examples of each split that is read, None for all. own_texts,
    calibration: None where there are none. training: says too whether to train, evaluate and predict."""

    model: ModelSource
    data: DataSource
    limits: Mapping[str, int | None]
    tokenization: Tokenization
    method: Method
    own_texts: OwnTexts | None
    evaluation: Evaluation
    calibration: CalibrationJob | None
    output: Output
    training: Seq2SeqTrainingArguments


@dataclass(frozen=True)
class Run:
    """A job that fits its model. texts: the examples of each split that is needed, of `load_split`;
    generation: the effective generation config, see `models.effective_generation`; policies: the evaluation's
    for this model."""

    job: Job
    texts: dict[str, Dataset]
    model: PreTrainedModel
    tokenizer: Any
    generation: dict[str, Any]
    policies: list[ExitPolicy]

    def source(self) -> dict[str, Any]:
        """What stands in every result file: what it needs to be repeated, and how texts are scored."""
        training = self.job.training
        return provenance(training.seed, training.device) | scoring_rules() | self.job.data.task.rules()
