"""The stages of a run, in order. Nothing is written before all is checked."""

from dataclasses import replace
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging

from runner.adapters import prepare_adapters
from runner.calibration import calibrate_exits, save_with_checkpoint
from runner.calibration_tables import CalibrationRun
from runner.evaluation import generation_settings, predict, report, sweep
from runner.folder import ledger_of, prepare_folder
from runner.model import check_exit_heads, check_shortlists, load_model_and_tokenizer, prepare_objective
from runner.own_text import all_documents, open_own_texts, own_text_examples
from runner.reference import load_reference
from runner.texts import load_texts, tokenized_prompts
from runner.training import checked_resumption, make_trainer, train
from runner.values import Run
from trainers.generation import GENERATION_METRICS, GenerationTrainer
from util.calibration_data import save_training_documents
from util.check_generation import check_generation, settle_generation
from util.check_training import check_best_metric
from util.command_line import Arguments
from util.pipeline import fingerprint_of, pipeline_of
from util.plan_of_flags import calibration_plan
from util.results import SweepTable
from util.run_folder import finish_training
from util.tokenizer import fit_embeddings


def run(arguments: Arguments) -> None:
    """Loads, checks, then calibrates, or trains, evaluates and predicts, as asked. Raises UsageError for
    flags that do not fit the model or the data."""
    logging.set_verbosity(arguments.training.get_process_log_level())
    set_seed(arguments.training.seed)
    texts = load_texts(arguments)
    model, tokenizer = load_model_and_tokenizer(arguments.model, texts)
    this = Run(arguments, texts, model, tokenizer, _settled(arguments, model, tokenizer))
    if arguments.calibration.do_cali:
        _calibrate(this)
    else:
        _train_and_evaluate(this)


def _settled(arguments: Arguments, model, tokenizer) -> dict:
    """Makes the model ready for what the flags ask of it. Returns its effective generation config."""
    model_args, data, exits, calibration, training = arguments
    may_grow = training.do_train and not exits.keeps_model
    fit_embeddings(model, tokenizer, may_grow)
    exits.policies.of(model)
    prepare_adapters(model, exits, training)
    check_exit_heads(model, exits, calibration)
    check_shortlists(model, exits, calibration)
    generation = settle_generation(model, data, training)
    check_generation(generation, model_args, exits, calibration, training)
    check_best_metric(training, {*data.task.score_names, *GENERATION_METRICS})
    return generation


def _calibrate(this: Run) -> None:
    """`--do_cali True`."""
    model_args, data, exits, calibration, training = this.arguments
    plan = calibration_plan(exits, calibration, training.seed)
    plan.check_model(this.model)
    prompts = tokenized_prompts(this.texts, this.tokenizer, data)
    own = prompts["calibration"]
    about = (this.generation, data, exits, plan.settings, own.tokens["input_ids"], training.device)
    pipeline = pipeline_of(this.model, this.tokenizer, *about)
    reference = None
    if calibration.calibrate_reference is not None:
        reference, named = load_reference(this)
        plan = replace(plan, reference=named)
    key = {"fingerprint": fingerprint_of(pipeline), "prompts": own.identity()}
    key["reference"] = None if plan.reference is None else plan.reference.fingerprint
    with training.main_process_first(desc="preparing the output folder"):
        prepare_folder(this.arguments, None, {"generation": this.generation, **key})
    trainer, ledger = _trainer(this), ledger_of(this.arguments)
    run = CalibrationRun(trainer, own, plan, key, this.source(), reference)
    spends = calibration.calibrate_epsilon_spending
    result = calibrate_exits(run, prompts.get("held_out"), pipeline, ledger, spends)
    if calibration.save_calibration and trainer.is_world_process_zero():
        save_with_checkpoint(result, Path(model_args.model_name_or_path))


def _train_and_evaluate(this: Run) -> None:
    """`--do_train`, `--do_eval`, `--do_predict`."""
    exits, training = this.arguments.exits, this.arguments.training
    own_texts = open_own_texts(this) if exits.train_on_own_text else None
    prepare_objective(this.model, exits)
    resume = checked_resumption(this)
    with training.main_process_first(desc="preparing the output folder"):
        checkpoint = prepare_folder(this.arguments, resume, {"generation": this.generation})
    trainer, source = _trainer(this), this.source()
    if training.do_train:
        about = {}
        if own_texts is not None:
            trainer.train_dataset, about = own_text_examples(own_texts, this)
        train(trainer, checkpoint, source, about)
        if trainer.is_world_process_zero():
            trained_on = {"train": all_documents(this.texts)}
            save_training_documents(trained_on, this.arguments.model, this.folder)
    if exits.is_sweep:
        policies = exits.policies.of(this.model)
        sweep(trainer, policies, exits, SweepTable(this.folder, source, trainer.is_world_process_zero()))
    elif training.do_eval:
        report(trainer, "eval", trainer.evaluate(), len(trainer.eval_dataset), source)
    if training.do_predict:
        predict(trainer, this, source)
    if trainer.is_world_process_zero() and training.do_train:
        finish_training(this.folder)


def _trainer(this: Run) -> GenerationTrainer:
    """One that decodes as the flags say; a sweep and a calibration tell it anew for each setting."""
    trainer, exits = make_trainer(this), this.arguments.exits
    if not exits.is_sweep:
        policy = exits.policies.of(this.model)[0]
        trainer.generation = generation_settings(policy, exits)
    return trainer
