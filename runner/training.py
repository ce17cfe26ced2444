"""Training: the trainer, what it goes on from, and what it leaves behind."""

from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq
from transformers.utils import logging

from early_exit.models.lora import merge_lora
from early_exit.models.perturbed_decoder import Perturbation
from runner.evaluation import report, scores_against
from runner.values import Run
from trainers.exit_adapters import AdapterTrainer
from trainers.generation import GenerationTrainer
from trainers.heads import HeadTrainer, head_rate
from trainers.joint import JointTrainer
from trainers.stable import TrainingDivergedError
from util.data import tokenize
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.files import whole_folder_contents
from util.resume import check_checkpoint, resumption

logger = logging.get_logger(__name__)


def make_trainer(run: Run) -> GenerationTrainer:
    """The trainer for training and evaluation, over tokenized texts."""
    training, tokens = run.arguments.training, _tokens(run)
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.cuda.is_available()
    validation = run.texts.get("validation")
    return _kind(run.arguments.exits)(
        model=run.model,
        args=training,
        train_dataset=tokens.get("train"),
        eval_dataset=tokens.get("validation"),
        processing_class=run.tokenizer,
        data_collator=DataCollatorForSeq2Seq(run.tokenizer, model=run.model, label_pad_token_id=-100),
        compute_metrics=None if validation is None else scores_against(validation, run),
    )


def _tokens(run: Run) -> dict[str, Dataset]:
    """Of the splits, but for texts that are written later."""
    data, training = run.arguments.data, run.arguments.training
    lengths = {"train": data.max_target_length, "validation": data.generation_length}
    if run.arguments.exits.train_on_own_text:
        del lengths["train"]
    with training.main_process_first(desc="tokenizing"):
        return {
            split: tokenize(run.texts[split], run.tokenizer, data, length)
            for split, length in lengths.items()
            if split in run.texts
        }


def _kind(exits: ExitArguments) -> partial:
    """The class of the trainer, with what it trains."""
    if exits.train_meta_cm_head:
        return partial(HeadTrainer, heads=exits.measures, head_loss=exits.exit_head_loss)
    if exits.train_exit_adapters:
        return partial(AdapterTrainer)
    return partial(
        JointTrainer,
        objective=exits.objective,
        perturbation=Perturbation(exits.exit_propagation, exits.layer_dropout),
        curriculum=exits.curriculum,
    )


def checked_resumption(run: Run) -> Path | bool | None:
    """What training goes on from, as `resumption` gives it; raises UsageError for a checkpoint that does not
    fit."""
    exits, training = run.arguments.exits, run.arguments.training
    resume = resumption(training)
    if isinstance(resume, Path):
        heads, rate = exits.train_meta_cm_head, training.learning_rate
        trained = run.model.exit_heads if heads else run.model
        if exits.train_exit_adapters:
            trained = run.model.exit_adapters
        rates = {head_rate(name, rate) for name in exits.measures} if heads else {rate}
        weights = sum(parameter.requires_grad for parameter in trained.parameters())
        check_checkpoint(resume, run.model, weights, rates, training)
    return resume


def train(trainer: GenerationTrainer, checkpoint: Path | None, source: dict, about: dict[str, int]) -> None:
    """Trains, from `checkpoint` if there is one, and saves model, tokenizer and results. about: what more
    there is to say of the training data."""
    if checkpoint is not None:
        logger.warning(f"resuming from {checkpoint}")
    try:
        result = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        merge_lora(trainer.model)
        trainer.model.drop_exit_transformation()
        if isinstance(trainer, JointTrainer):
            trainer.model.rank_tokens(trainer.train_dataset["labels"])
        if trainer.is_world_process_zero():
            with whole_folder_contents(trainer.args.output_dir) as scratch:
                trainer.save_model(str(scratch))
                trainer.processing_class.save_pretrained(scratch)
    except TrainingDivergedError as error:
        raise UsageError(str(error)) from error
    trainer.save_state()
    report(trainer, "train", result.metrics | about, len(trainer.train_dataset), source)
