"""The stages of a run, in order. Nothing is written before all is checked."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from early_exit import DecodingSetting
from early_exit.models.hashes import json_hash
from runner.calibration import calibrate_exits, save_with_checkpoint
from runner.calibration_tables import CalibrationRun
from runner.evaluation import predict, report, sweep
from runner.folder import ledger_of, prepare_folder
from runner.model import check_exits, load_model_and_tokenizer, ready_to_decode
from runner.own_text import all_documents, open_own_texts, own_text_examples
from runner.reference import load_reference
from runner.texts import load_texts, tokenized_prompts
from runner.training import checked_resumption, make_trainer, train
from runner.values import Job, Run
from trainers.generation import GENERATION_METRICS, GenerationTrainer
from trainers.loss_table import Kept
from util.calibration_data import save_training_documents
from util.check_training import check_best_metric
from util.decoded_texts import DecodedTexts
from util.errors import UsageError
from util.pipeline import certified_pipeline, fingerprint_of, pipeline_of
from util.results import SweepTable
from util.run_folder import finish_training


def run(job: Job) -> None:
    """Loads, checks, then calibrates, or trains, evaluates and predicts, as asked. Raises UsageError for a
    job that does not fit the model or the data."""
    logging.set_verbosity(job.training.get_process_log_level())
    set_seed(job.training.seed)
    texts = load_texts(job)
    model, tokenizer = load_model_and_tokenizer(job.model, texts)
    may_grow = job.training.do_train and job.method.grows_vocabulary
    generation = ready_to_decode(model, tokenizer, job.model, job, may_grow)
    check_best_metric(job.training, {*job.data.task.score_names, *GENERATION_METRICS})
    this = Run(job, texts, model, tokenizer, generation, job.evaluation.policies.of(model))
    if job.calibration is not None:
        _calibrate(this)
    else:
        _train_and_evaluate(this)


def _calibrate(this: Run) -> None:
    """`--do_cali True`."""
    job, asked, plan = this.job, this.job.calibration, this.job.calibration.plan
    check_exits(this.model, [setting.policy for setting in plan.settings])
    plan.check_model(this.model)
    prompts = tokenized_prompts(this.texts, this.tokenizer, job.tokenization)
    own = prompts["calibration"]
    plan.check_groups(own.groups)
    about = (job.tokenization, job.evaluation.full_depth, job.training.device)
    calibrated = (plan.settings, own.tokens["input_ids"])
    pipeline = pipeline_of(this.model, this.tokenizer, this.generation, *about, *calibrated)
    reference = None
    if asked.reference is not None:
        reference, named = load_reference(asked.reference, this)
        plan = replace(plan, reference=named)
    key = {"fingerprint": fingerprint_of(pipeline), "prompts": own.identity()}
    key["reference"] = None if plan.reference is None else plan.reference.fingerprint
    kept = _kept(asked.text_file, this, pipeline)
    with job.training.main_process_first(desc="preparing the output folder"):
        prepare_folder(job, None, {"generation": this.generation, **key})
    trainer = _trainer(this)
    run = CalibrationRun(trainer, own, plan, key, this.source(), reference, kept)
    result = calibrate_exits(run, prompts.get("held_out"), pipeline, ledger_of(job), asked.spends)
    if asked.saves and trainer.is_world_process_zero():
        save_with_checkpoint(result, Path(job.model.checkpoint))


def _kept(file: Path | None, this: Run, pipeline: dict[str, Any]) -> Kept | None:
    """Where a calibration keeps its texts. pipeline: of `util.pipeline`."""
    if file is None:
        return None

    def pipeline_hash(setting: DecodingSetting) -> str:
        own = certified_pipeline(pipeline, this.model, setting, this.job.training.device)
        return json_hash([own, pipeline["generation"], setting.to_dict()], length=32)

    return Kept(DecodedTexts(file), cache(pipeline_hash))


def _train_and_evaluate(this: Run) -> None:
    """`--do_train`, `--do_eval`, `--do_predict`."""
    job, training = this.job, this.job.training
    own_texts = None if job.own_texts is None else open_own_texts(this)
    _add_what_is_trained(this)
    check_exits(this.model, this.policies)
    resume = checked_resumption(this)
    with training.main_process_first(desc="preparing the output folder"):
        checkpoint = prepare_folder(job, resume, {"generation": this.generation})
    trainer, source = _trainer(this), this.source()
    writes, folder = trainer.is_world_process_zero(), job.output.folder
    if training.do_train:
        about = {}
        if own_texts is not None:
            trainer.train_dataset, about = own_text_examples(own_texts, this)
        train(trainer, checkpoint, source, about)
        if writes:
            save_training_documents(all_documents(this.texts), job.model.checkpoint, folder)
    if job.evaluation.sweeps:
        sweep(trainer, this.policies, job.evaluation, SweepTable(folder, source, writes))
    elif training.do_eval:
        report(trainer, "eval", trainer.evaluate(), len(trainer.eval_dataset), source)
    if training.do_predict:
        predict(trainer, this, source)
    if writes and training.do_train:
        finish_training(folder)


def _add_what_is_trained(this: Run) -> None:
    """Raises UsageError where the method does not fit the model, and where training would change the model
    that there are adapters for."""
    method = this.job.method
    if this.model.exit_adapters is not None and this.job.training.do_train and not method.keeps_model:
        raise UsageError(
            "the model has exit adapters, which training of the model itself would leave behind: train the "
            "checkpoint without them (--train_exit_adapters and --train_meta_cm_head alone keep the model)"
        )
    method.prepare(this.model)


def _trainer(this: Run) -> GenerationTrainer:
    """One that decodes by the first policy; a sweep and a calibration tell it anew for each setting."""
    trainer = make_trainer(this)
    trainer.generation = this.job.evaluation.settings(this.policies[0])
    return trainer
