"""Training: the trainer, what it goes on from, and what it leaves behind."""

from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq
from transformers.utils import logging

from early_exit.models.lora import merge_lora
from runner.evaluation import report, scores_against
from runner.values import Run
from trainers.generation import GenerationTrainer
from trainers.joint import JointTrainer
from trainers.stable import TrainingDivergedError
from util.errors import UsageError
from util.files import whole_folder_contents
from util.resume import check_checkpoint, resumption
from util.tokens import tokenize

logger = logging.get_logger(__name__)


def make_trainer(run: Run) -> GenerationTrainer:
    """The trainer for training and evaluation, over tokenized texts."""
    training, tokens = run.job.training, _tokens(run)
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.cuda.is_available()
    validation = run.texts.get("validation")
    return run.job.method.trainer(
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
    how = run.job.tokenization
    lengths = {"train": how.target_length, "validation": how.generation_length}
    if run.job.own_texts is not None:
        del lengths["train"]
    with run.job.training.main_process_first(desc="tokenizing"):
        return {
            split: tokenize(run.texts[split], run.tokenizer, how, length)
            for split, length in lengths.items()
            if split in run.texts
        }


def checked_resumption(run: Run) -> Path | bool | None:
    """What training goes on from, as `resumption` gives it; raises UsageError for a checkpoint that does not
    fit."""
    method, training = run.job.method, run.job.training
    resume = resumption(training)
    if isinstance(resume, Path):
        weights = sum(parameter.requires_grad for parameter in method.trained(run.model).parameters())
        check_checkpoint(resume, run.model, weights, method.rates(training.learning_rate), training)
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
        _drop_certificate(trainer.model)
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


def _drop_certificate(model) -> None:
    """What was calibrated before training is not what is saved."""
    if getattr(model.config, "exit_calibration", None) is not None:
        logger.warning("the checkpoint was calibrated; what has been trained from it is not: calibrate it")
        model.config.exit_calibration = None
