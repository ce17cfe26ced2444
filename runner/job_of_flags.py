"""From flags to values: the last place that knows flags."""

from dataclasses import replace
from pathlib import Path

from early_exit.models.perturbed_decoder import Perturbation
from runner.methods import AdapterTraining, HeadTraining, Method, ModelTraining
from runner.values import CalibrationJob, Evaluation, Job, ModelSource, Output, OwnTexts
from trainers.generation import GenerationSettings
from util.arguments import DataArguments, ModelArguments
from util.calibration_data import Draw
from util.command_line import Arguments
from util.data import DataSource
from util.exit_arguments import ExitArguments
from util.plan_of_flags import calibration_plan
from util.settings_of_flags import (
    calibration_settings,
    checkpoint_files,
    run_files,
    run_settings,
    sweep_files,
    sweep_settings,
)

_OWN_TEXTS = "own_texts.jsonl"


def job_of_flags(arguments: Arguments) -> Job:
    """Of flags that have been checked. Raises UsageError for a calibration whose knobs exclude each other."""
    model, data, exits, calibration, training = arguments
    wanted = {
        "train": (training.do_train, data.max_train_samples),
        "validation": (training.do_eval, data.max_eval_samples),
        "test": (training.do_predict, data.max_predict_samples),
    }
    return Job(
        model=model_source(model),
        data=data_source(data, model),
        limits={split: limit for split, (needed, limit) in wanted.items() if needed},
        tokenization=data.tokenization,
        method=_method(exits),
        own_texts=_own_texts(arguments) if exits.train_on_own_text else None,
        evaluation=_evaluation(exits),
        calibration=_calibration_job(arguments) if calibration.do_cali else None,
        output=_output(arguments),
        training=training,
    )


def model_source(model: ModelArguments) -> ModelSource:
    """What to load or to make."""
    names = ("token", "cache_dir", "trust_remote_code")
    return ModelSource(
        checkpoint=model.model_name_or_path,
        shape=model.model_shape,
        tokenizer=model.tokenizer_name,
        pieces=model.tokenizer_vocab_size,
        dropout=model.dropout_rate,
        hub={"revision": model.model_revision, **{name: getattr(model, name) for name in names}},
    )


def data_source(data: DataArguments, model: ModelArguments) -> DataSource:
    """What to read, with the hub's options, which are flags of the model."""
    return data.source(cache_dir=model.cache_dir, token=model.token)


def _method(exits: ExitArguments) -> Method:
    if exits.train_meta_cm_head:
        return HeadTraining(exits.measures, exits.exit_head_loss, exits.share_exit_head)
    if exits.train_exit_adapters:
        return AdapterTraining(exits.exit_adapter_rank)
    return ModelTraining(
        exits.objective,
        Perturbation(exits.exit_propagation, exits.layer_dropout),
        exits.curriculum,
        exits.lora,
        transforms=exits.do_layer_transformation,
    )


def _own_texts(arguments: Arguments) -> OwnTexts:
    model, data, exits, _, training = arguments
    unlabelled = None
    if exits.unlabelled_file is not None:
        files = {"train": exits.unlabelled_file}
        unlabelled = replace(data_source(data, model), name=None, files=files)
    return OwnTexts(
        file=Path(exits.own_text_file or Path(training.output_dir) / _OWN_TEXTS),
        replaces=exits.own_text_file is None and exits.overwrite_output_dir,
        gold_share=exits.own_text_gold_share,
        unlabelled=unlabelled,
    )


def _evaluation(exits: ExitArguments) -> Evaluation:
    shared = GenerationSettings(
        precision=exits.engine_precision,
        warm_up=exits.deploy_scenario,
        synchronize=exits.use_synchronize,
        adaptive=exits.adaptive,
    )
    return Evaluation(exits.policies, shared, exits.decodes_with_exits, exits.is_sweep, exits.retime)


def _calibration_job(arguments: Arguments) -> CalibrationJob:
    model, data, exits, calibration, training = arguments
    seed, name, reference = training.seed, calibration.calibrate_reference, None
    if name is not None:
        own = {"model_name_or_path": name, "tokenizer_name": None, "model_revision": "main"}
        reference = model_source(replace(model, **own))
    return CalibrationJob(
        plan=calibration_plan(exits, calibration, seed),
        draw=Draw(
            calibration.max_calibrate_samples, data.max_predict_samples, seed, calibration.group_column
        ),
        reference=reference,
        spends=calibration.calibrate_epsilon_spending,
        saves=calibration.save_calibration,
        text_file=None if calibration.calibrate_text_file is None else Path(calibration.calibrate_text_file),
    )


def _output(arguments: Arguments) -> Output:
    """An evaluation of one setting writes at its end only, and goes on from nothing."""
    exits, training = arguments.exits, arguments.training
    settings, files = {}, []
    if arguments.calibration.do_cali:
        settings, files = calibration_settings(arguments), sweep_files(arguments)
    elif exits.is_sweep:
        settings, files = sweep_settings(arguments), sweep_files(arguments)
    elif training.do_train:
        settings, files = run_settings(arguments), run_files(arguments)
    weights = checkpoint_files(arguments)
    return Output(Path(training.output_dir), exits.overwrite_output_dir, settings, files, weights)
