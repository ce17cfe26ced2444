"""Train a T5 with an exit after every decoder layer on a summarization task, and evaluate its exits.

    python run_summarization.py --model_shape small --dataset_name embedded \
        --source_prefix "summarize: " --do_train --output_hidden_states_decoder True \
        --intermediate_loss_fn weighted_ce --learning_rate 1e-3 --output_dir save/small
    python run_summarization.py --model_name_or_path save/small --dataset_name embedded \
        --source_prefix "summarize: " --do_eval --predict_with_generate --deploy_scenario True \
        --use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9 \
        --output_dir save/softmax_0.9

Or with one JSON or YAML file of the same names: `python run_summarization.py settings.yaml`.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    PreTrainedModel,
    Seq2SeqTrainingArguments,
    set_seed,
)
from transformers.utils import logging

from calibration_tables import LOSS_TABLE_FILE, Prompts
from early_exit.heads import head_kind
from early_exit.models.loading import load_model, new_model
from early_exit.models.lora import add_lora, merge_lora
from early_exit.models.perturbed_decoder import Perturbation
from early_exit.models.token_ranking import shortlist_of
from run_calibration import calibrate_exits, calibration_settings, save_with_checkpoint
from run_own_text import all_documents, load_unlabelled, open_own_texts, own_text_examples
from trainers.generation import GENERATION_METRICS, GenerationSettings, GenerationTrainer
from trainers.heads import HeadTrainer, head_rate
from trainers.joint import JointTrainer
from trainers.stable import TrainingDivergedError
from util.arguments import DataArguments, ExitArguments, ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.calibration_data import calibration_texts, document_hashes, save_training_documents
from util.calibration_plan import calibration_plan
from util.check_generation import check_generation, settle_generation
from util.check_training import check_best_metric
from util.command_line import parse_arguments
from util.data import load_split, tokenize
from util.errors import UsageError
from util.files import whole_folder_contents, write_text
from util.ledger import Ledger, may_write
from util.metrics import ROUGE_TYPES, rouge_against, scoring_rules
from util.pipeline import fingerprint_of, pipeline_of
from util.results import SweepTable, heads_table, provenance, write_results
from util.resume import check_checkpoint, resumption
from util.run_folder import (
    check_free,
    check_writable,
    finish_sweep,
    finish_training,
    prepare_sweep,
    prepare_training,
)
from util.settings import run_settings, sweep_settings
from util.tokenizer import fit_embeddings, number_of_ids, train_tokenizer

logger = logging.get_logger(__name__)


def main(data: type[DataArguments] = DataArguments) -> int:
    """Runs the command line. Returns the exit code: 0, or 2 after one line about bad input."""
    try:
        run(*parse_arguments(sys.argv[1:], data))
    except UsageError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(*arguments) -> None:
    """Loads, checks, then trains, evaluates and predicts as asked. Writes nothing before all is checked.

    arguments: of `parse_arguments`.
    """
    model_args, data_args, exit_args, calibration, training = arguments
    logging.set_verbosity(training.get_process_log_level())
    set_seed(training.seed)
    texts = load_texts(model_args, data_args, exit_args, calibration, training)
    model, tokenizer = load_model_and_tokenizer(model_args, texts)
    may_grow = training.do_train and not exit_args.train_meta_cm_head
    fit_embeddings(model, tokenizer, may_grow)
    policies = exit_args.policies(model.num_exits, model.config.vocab_size)
    check_exit_heads(model, exit_args, calibration)
    check_shortlists(model, exit_args, calibration)
    effective = settle_generation(model, data_args, training)
    check_generation(effective, model_args, exit_args, calibration, training)
    if calibration.do_cali:
        plan = calibration_plan(exit_args, calibration, training.seed)
        plan.check_model(model)
    check_best_metric(training, {*ROUGE_TYPES, *GENERATION_METRICS})
    if exit_args.train_on_own_text:
        own_texts = open_own_texts(model, tokenizer, data_args, exit_args, training)
    prepare_objective(model, exit_args)
    folder, resume = Path(training.output_dir), checked_resumption(model, exit_args, training)
    shared = {"generation": effective}  # by points of a sweep, and columns of a loss table
    if calibration.do_cali:
        prompts = tokenized_prompts(texts, tokenizer, data_args)
        own = prompts["calibration"]
        about = (effective, data_args, exit_args, plan.settings, own.tokens["input_ids"], training.device)
        pipeline = pipeline_of(model, tokenizer, *about)
        shared |= {"fingerprint": fingerprint_of(pipeline), "prompts": own.identity()}
    with training.main_process_first(desc="preparing the output folder"):
        checkpoint = prepare_folder(folder, resume, shared, *arguments)
    trainer = make_trainer(model, tokenizer, texts, data_args, exit_args, training)
    if not exit_args.is_sweep:
        trainer.generation = generation_settings(policies[0], exit_args)
    source = provenance(training.seed, training.device) | scoring_rules()
    if calibration.do_cali:
        ledger, spends = ledger_of(model_args, data_args, folder), calibration.calibrate_epsilon_spending
        result = calibrate_exits(trainer, prompts, plan, pipeline, ledger, spends, source)
        if calibration.save_calibration and trainer.is_world_process_zero():
            save_with_checkpoint(result, Path(model_args.model_name_or_path))
        return
    if training.do_train:
        about = {}
        if exit_args.train_on_own_text:
            trainer.train_dataset, about = own_text_examples(
                own_texts, model, tokenizer, texts, data_args, exit_args, training
            )
        train(trainer, tokenizer, checkpoint, source, about)
        if trainer.is_world_process_zero():
            save_training_documents({"train": all_documents(texts)}, model_args, folder)
    if exit_args.is_sweep:
        sweep(trainer, policies, exit_args, SweepTable(folder, source, trainer.is_world_process_zero()))
    elif training.do_eval:
        report(trainer, "eval", trainer.evaluate(), len(trainer.eval_dataset), source)
    if training.do_predict:
        trainer.compute_metrics = rouge_of(texts["test"], tokenizer)
        tokens = tokenize(texts["test"], tokenizer, data_args, data_args.generation_length)
        predict(trainer, tokenizer, tokens, source)
    if trainer.is_world_process_zero() and training.do_train:
        finish_training(folder)


def checked_resumption(model, exit_args: ExitArguments, training: Seq2SeqTrainingArguments):
    """What training goes on from, as `resumption` gives it; raises UsageError for a checkpoint that does not
    fit."""
    resume = resumption(training)
    if isinstance(resume, Path):
        heads, rate = exit_args.train_meta_cm_head, training.learning_rate
        trained = model.exit_heads if heads else model
        rates = {head_rate(name, rate) for name in exit_args.measures} if heads else {rate}
        weights = sum(parameter.requires_grad for parameter in trained.parameters())
        check_checkpoint(resume, model, weights, rates, training)
    return resume


def prepare_folder(
    folder: Path,
    resume: Path | bool | None,
    shared: dict,
    model_args: ModelArguments,
    data_args: DataArguments,
    exit_args: ExitArguments,
    calibration: CalibrationArguments,
    training: Seq2SeqTrainingArguments,
) -> Path | None:
    """Readies the output folder. Returns the checkpoint to resume from, if there is one.

    resume: see `util.resume.resumption`. shared: what points of a sweep and columns of a loss table share
    beside their flags.
    """
    check_writable(folder, "--output_dir")
    overwrite = exit_args.overwrite_output_dir
    if calibration.do_cali:
        context = calibration_settings(model_args, data_args, exit_args, calibration, training)
        prepare_sweep(folder, context | shared, overwrite, LOSS_TABLE_FILE)
    elif exit_args.is_sweep:
        context = sweep_settings(model_args, data_args, exit_args, training)
        prepare_sweep(folder, context | shared, overwrite)
    elif training.do_train:
        settings = run_settings(model_args, data_args, exit_args, training)
        if resume is False and not training.should_save:
            resume = None  # the main process has made room
        return prepare_training(folder, settings, overwrite, resume)
    else:  # an evaluation writes at its end only
        check_free(folder, overwrite)
    return None


def load_texts(
    model_args: ModelArguments,
    data_args: DataArguments,
    exit_args: ExitArguments,
    calibration: CalibrationArguments,
    training,
) -> dict:
    """The splits that the run needs, by name, as documents and summaries, and "unlabelled" documents to write
    texts for; for a calibration, those of `util.calibration_data`."""
    if calibration.do_cali:
        with training.main_process_first(desc="reading data"):
            return calibration_texts(model_args, data_args, calibration, training.seed)
    wanted = {
        "train": (training.do_train, data_args.max_train_samples),
        "validation": (training.do_eval, data_args.max_eval_samples),
        "test": (training.do_predict, data_args.max_predict_samples),
    }
    without = {"test"}  # summaries
    if exit_args.train_on_own_text and not exit_args.own_text_gold_share:
        without.add("train")
    with training.main_process_first(desc="reading data"):
        texts = {
            split: load_split(split, data_args, model_args, limit, needs_summaries=split not in without)
            for split, (needed, limit) in wanted.items()
            if needed
        }
        if exit_args.unlabelled_file is not None:
            texts["unlabelled"] = load_unlabelled(exit_args, data_args, model_args)
    if "test" in texts and "summary" not in texts["test"].column_names:
        if not training.predict_with_generate:
            raise UsageError("--do_predict on documents without summaries needs --predict_with_generate")
        logger.warning("the test data has no summaries: there will be no ROUGE")
    return texts


def tokenized_prompts(texts: dict, tokenizer, data_args: DataArguments) -> dict[str, Prompts]:
    """For a calibration, by name."""
    length = data_args.generation_length
    return {
        name: Prompts(
            tokenize(examples, tokenizer, data_args, length),
            examples["references"],
            document_hashes(examples),
            examples["group"] if "group" in examples.column_names else None,
        )
        for name, examples in texts.items()
    }


def ledger_of(model_args: ModelArguments, data_args: DataArguments, folder: Path) -> Ledger:
    """Beside the checkpoint's folder and the validation data, where these are on this machine, and in the
    output folder if neither can be written. Not in the checkpoint's folder: measuring a model leaves it as it
    is."""
    names = (model_args.model_name_or_path, data_args.validation_file or data_args.dataset_name)
    places = [Path(name).resolve() for name in names if name is not None and Path(name).exists()]
    parents = [place.parent for place in places]
    return Ledger([*parents, *([] if any(map(may_write, parents)) else [folder])])


def load_model_and_tokenizer(model_args: ModelArguments, texts: dict) -> tuple[PreTrainedModel, object]:
    """The checkpoint, or random weights with a tokenizer trained from the training texts."""
    hub_options = {
        "revision": model_args.model_revision,
        "token": model_args.token,
        "cache_dir": model_args.cache_dir,
        "trust_remote_code": model_args.trust_remote_code,
    }
    tokenizer_source = model_args.tokenizer_name or model_args.model_name_or_path
    try:
        if tokenizer_source is not None:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_source, **hub_options)
        else:
            train_texts = [*texts["train"]["document"], *texts["train"]["summary"]]
            tokenizer = train_tokenizer(train_texts, model_args.tokenizer_vocab_size)
        if model_args.model_shape is not None:
            tokens = number_of_ids(tokenizer)
            return new_model(model_args.model_shape, tokens, model_args.dropout_rate), tokenizer
        return load_model(model_args.model_name_or_path, model_args.dropout_rate, **hub_options), tokenizer
    except (OSError, ValueError) as error:
        name = model_args.model_name_or_path or tokenizer_source
        reason = " ".join(str(error).split("\n")[0].split())
        raise UsageError(f"cannot load {name!r} as a T5-family model: {reason}") from error


def prepare_objective(model, exit_args: ExitArguments) -> None:
    """Gives the model what its training needs beside its own weights. Raises UsageError for an objective that
    does not fit its depth."""
    try:
        exit_args.objective.terms(model.num_exits)
    except ValueError as error:
        raise UsageError(f"--intermediate_loss_fn {exit_args.intermediate_loss_fn}: {error}") from error
    if exit_args.lora is not None:
        try:
            add_lora(model, exit_args.lora)
        except ValueError as error:
            raise UsageError(f"--lora_target_modules: {error}") from error
    if exit_args.do_layer_transformation:
        model.add_exit_transformation()


def check_exit_heads(model, exit_args: ExitArguments, calibration: CalibrationArguments) -> None:
    """Makes the heads that are to be trained; else raises UsageError for heads that the model lacks."""
    if exit_args.train_meta_cm_head:
        if not hasattr(model.config, "exit_loss"):
            logger.warning(
                "the checkpoint does not say that its exits were trained (--output_hidden_states_decoder "
                "True): if they were not, lower layers hardly ever agree with full depth"
            )
        for name in exit_args.measures:
            model.add_exit_heads(name, shared=exit_args.share_exit_head)
    elif exit_args.use_early_exit:
        try:
            knobs = calibration.knobs if calibration.do_cali else []
            for name in {*exit_args.measures, *(each.get("exit_conf_type") for each in knobs)} - {None}:
                if head_kind(name) is not None:
                    model.check_exit_heads(name)
        except ValueError as error:
            raise UsageError(f"--exit_conf_type: {error}") from error


def check_shortlists(model, exit_args: ExitArguments, calibration: CalibrationArguments) -> None:
    """Raises UsageError for shortlists of more tokens than the model has ranked."""
    knobs = calibration.knobs if calibration.do_cali else []
    sizes = {*exit_args.shortlists, *(each.get("shortlist") for each in knobs)} - {None}
    try:
        for size in sizes:
            shortlist_of(model, size)
    except ValueError as error:
        raise UsageError(f"--shortlist: {error}") from error


def make_trainer(model, tokenizer, texts, data_args, exit_args, training) -> GenerationTrainer:
    """The trainer for training and evaluation, over tokenized texts."""
    lengths = {"train": data_args.max_target_length, "validation": data_args.generation_length}
    if exit_args.train_on_own_text:  # whose texts are written later
        del lengths["train"]
    with training.main_process_first(desc="tokenizing"):
        tokens = {
            split: tokenize(texts[split], tokenizer, data_args, length)
            for split, length in lengths.items()
            if split in texts
        }
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.cuda.is_available()
    if exit_args.train_meta_cm_head:
        trainer = partial(HeadTrainer, heads=exit_args.measures, head_loss=exit_args.exit_head_loss)
    else:
        trainer = partial(
            JointTrainer,
            objective=exit_args.objective,
            perturbation=Perturbation(exit_args.exit_propagation, exit_args.layer_dropout),
            curriculum=exit_args.curriculum,
        )
    return trainer(
        model=model,
        args=training,
        train_dataset=tokens.get("train"),
        eval_dataset=tokens.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
        compute_metrics=rouge_of(texts["validation"], tokenizer) if "validation" in texts else None,
    )


def rouge_of(examples, tokenizer) -> Callable[[EvalPrediction], dict[str, float]] | None:
    """For a trainer: ROUGE of what it generates for all of the examples, against their whole summaries as
    they stand in the data, whatever the labels were cut to. None where there are no summaries."""
    if "summary" not in examples.column_names:
        return None
    rouge = rouge_against(examples["summary"], tokenizer)
    return lambda rows: rouge(rows.predictions)


def generation_settings(policy, exit_args: ExitArguments) -> GenerationSettings:
    """How one policy is decoded: by this project's loop as soon as an exit flag is on."""
    return GenerationSettings(
        policy=policy if exit_args.decodes_with_exits else None,
        precision=exit_args.engine_precision,
        warm_up=exit_args.deploy_scenario,
        synchronize=exit_args.use_synchronize,
    )


def train(
    trainer: GenerationTrainer, tokenizer, checkpoint: Path | None, source: dict, about: dict[str, int]
) -> None:
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
                tokenizer.save_pretrained(scratch)
    except TrainingDivergedError as error:
        raise UsageError(str(error)) from error
    trainer.save_state()
    report(trainer, "train", result.metrics | about, len(trainer.train_dataset), source)


def sweep(trainer: GenerationTrainer, policies: list, exit_args: ExitArguments, table: SweepTable) -> None:
    """Evaluates the policies that the table lacks, and with `retime` those anew whose times were disturbed;
    the table is rewritten after each."""
    for policy in [policy for policy in policies if policy not in table]:
        trainer.generation = generation_settings(policy, exit_args)
        table.add(policy, trainer.evaluate())
    for policy in table.disturbed() if exit_args.retime else []:
        trainer.generation = generation_settings(policy, exit_args)
        table.retime(policy, trainer.evaluate())
    if trainer.is_world_process_zero():
        finish_sweep(Path(trainer.args.output_dir))
        print(table)


def predict(trainer: GenerationTrainer, tokenizer, examples, source: dict) -> None:
    """Generates for the test examples and writes generated_predictions.txt, one summary a line."""
    output = trainer.predict(examples, metric_key_prefix="predict")
    report(trainer, "predict", output.metrics, len(examples), source)
    if trainer.is_world_process_zero() and trainer.args.predict_with_generate:
        texts = tokenizer.batch_decode(output.predictions, skip_special_tokens=True)
        lines = [" ".join(text.split()) for text in texts]
        write_text(Path(trainer.args.output_dir) / "generated_predictions.txt", "\n".join(lines) + "\n")


def report(trainer: GenerationTrainer, split: str, metrics: dict, samples: int, source: dict) -> None:
    """Prints the metrics of a split and writes its result files."""
    metrics[f"{split}_samples"] = samples
    if trainer.is_world_process_zero():
        print(f"***** {split} *****")
        for name, value in sorted(metrics.items()):
            if name.endswith("_heads"):
                print(heads_table(value))
                continue
            print(f"  {name:<28} = {value:.4f}" if isinstance(value, float) else f"  {name:<28} = {value}")
        write_results(Path(trainer.args.output_dir), split, metrics, source)


if __name__ == "__main__":
    sys.exit(main())
