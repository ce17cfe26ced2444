"""Methods of training: of the model with its exits, of exit heads, of exit adapters.

A method is a value. It says what has to be added to the model, which trainer trains that, and at which rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from transformers.utils import logging

from early_exit import Objective
from early_exit.models.lora import LoraSettings, add_lora
from early_exit.models.perturbed_decoder import Perturbation
from trainers.exit_adapters import AdapterTrainer
from trainers.generation import GenerationTrainer
from trainers.heads import HeadTrainer, head_rate
from trainers.joint import JointTrainer
from util.errors import UsageError

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class ModelTraining:
    """Of the model itself; an evaluation's loss is this one too.

    objective, perturbation, curriculum: as in `JointTrainer`. lora: the updates that are trained, None for
    the weights. transforms: whether states that are distilled go through a linear map that is trained beside.
    """

    objective: Objective
    perturbation: Perturbation
    curriculum: str | None = None
    lora: LoraSettings | None = None
    transforms: bool = False
    keeps_model: ClassVar[bool] = False

    def prepare(self, model) -> None:
        """Adds what is trained to the model. Raises UsageError where the method does not fit it."""
        try:
            self.objective.terms(model.num_exits)
        except ValueError as error:
            raise UsageError(f"--intermediate_loss_fn {self.objective.name}: {error}") from error
        if self.lora is not None:
            try:
                add_lora(model, self.lora)
            except ValueError as error:
                raise UsageError(f"--lora_target_modules: {error}") from error
        if self.transforms:
            model.add_exit_transformation()

    @property
    def grows_vocabulary(self) -> bool:
        """Whether new rows of embedding and LM head are trained."""
        return self.lora is None

    def trained(self, model) -> nn.Module:
        """The part of a prepared model that is trained."""
        return model

    def rates(self, learning_rate: float) -> set[float]:
        """What that part is trained with."""
        return {learning_rate}

    def trainer(self, **about) -> GenerationTrainer:
        """about: as transformers' Trainer takes it."""
        return JointTrainer(
            objective=self.objective, perturbation=self.perturbation, curriculum=self.curriculum, **about
        )


@dataclass(frozen=True)
class HeadTraining:
    """Of exit heads. measures: their names; loss: a name of `HEAD_LOSSES`; shared: one head for all
    layers."""

    measures: Sequence[str]
    loss: str
    shared: bool
    keeps_model: ClassVar[bool] = True
    grows_vocabulary: ClassVar[bool] = False

    def prepare(self, model) -> None:
        """Adds the heads. Raises UsageError for a model that has no exit."""
        if not hasattr(model.config, "exit_loss") and model.exit_adapters is None:
            logger.warning(
                "the checkpoint does not say that its exits were trained (--output_hidden_states_decoder "
                "True): if they were not, lower layers hardly ever agree with full depth"
            )
        try:
            for name in self.measures:
                model.add_exit_heads(name, shared=self.shared)
        except ValueError as error:
            raise UsageError(f"--exit_conf_type: {error}") from error

    def trained(self, model) -> nn.Module:
        """The heads that are named; a model may have others, which stay as they are."""
        return nn.ModuleList(model.exit_heads[name] for name in self.measures)

    def rates(self, learning_rate: float) -> set[float]:
        return {head_rate(name, learning_rate) for name in self.measures}

    def trainer(self, **about) -> GenerationTrainer:
        return HeadTrainer(heads=self.measures, head_loss=self.loss, **about)


@dataclass(frozen=True)
class AdapterTraining:
    """Of exit adapters. rank: None for full."""

    rank: int | None
    keeps_model: ClassVar[bool] = True
    grows_vocabulary: ClassVar[bool] = False

    def prepare(self, model) -> None:
        """Adds the adapters, in the place of earlier ones. Raises UsageError for a rank that does not fit."""
        try:
            model.add_exit_adapters(self.rank)
        except ValueError as error:
            raise UsageError(f"--exit_adapter_rank: {error}") from error

    def trained(self, model) -> nn.Module:
        return model.exit_adapters

    def rates(self, learning_rate: float) -> set[float]:
        return {learning_rate}

    def trainer(self, **about) -> GenerationTrainer:
        return AdapterTrainer(**about)


Method = ModelTraining | HeadTraining | AdapterTraining
