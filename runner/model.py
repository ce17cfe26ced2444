"""The model of a run: loaded or made, and held against the flags."""

from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from early_exit.heads import head_kind
from early_exit.models.loading import load_model, new_model
from early_exit.models.lora import add_lora
from early_exit.models.token_ranking import shortlist_of
from util.arguments import ModelArguments
from util.calibration_arguments import CalibrationArguments
from util.errors import UsageError
from util.exit_arguments import ExitArguments
from util.tokenizer import number_of_ids, train_tokenizer

logger = logging.get_logger(__name__)


def load_model_and_tokenizer(model_args: ModelArguments, texts: dict) -> tuple[PreTrainedModel, object]:
    """The checkpoint, or random weights with a tokenizer trained from the training texts."""
    hub_options = {"revision": model_args.model_revision}
    hub_options |= {name: getattr(model_args, name) for name in ("token", "cache_dir", "trust_remote_code")}
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
        if not hasattr(model.config, "exit_loss") and model.exit_adapters is None:
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
