"""The model of a run: loaded or made, and held against what it is asked for."""

from collections.abc import Collection
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from early_exit import ExitPolicy
from early_exit.heads import head_kind
from early_exit.models.loading import load_model, new_model
from early_exit.models.token_ranking import shortlist_of
from runner.values import Job, ModelSource
from util.check_generation import check_generation, check_served, settle_generation
from util.errors import UsageError
from util.tokenizer import fit_embeddings, number_of_ids, train_tokenizer


def load_model_and_tokenizer(source: ModelSource, texts: dict) -> tuple[PreTrainedModel, Any]:
    """The checkpoint, or random weights with a tokenizer trained from the training texts."""
    tokenizer_source = source.tokenizer or source.checkpoint
    try:
        if tokenizer_source is not None:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_source, **source.hub)
        else:
            train_texts = [*texts["train"]["document"], *texts["train"]["summary"]]
            tokenizer = train_tokenizer(train_texts, source.pieces)
        if source.shape is not None:
            return new_model(source.shape, number_of_ids(tokenizer), source.dropout), tokenizer
        return load_model(source.checkpoint, source.dropout, **source.hub), tokenizer
    except (OSError, ValueError) as error:
        name = source.checkpoint or tokenizer_source
        reason = " ".join(str(error).split("\n")[0].split())
        raise UsageError(f"cannot load {name!r} as a T5-family model: {reason}") from error


def ready_to_decode(model, tokenizer, source: ModelSource, job: Job, may_grow: bool) -> dict[str, Any]:
    """Makes a model ready for the job's texts. Returns its effective generation config.

    may_grow: whether it may get embeddings for the tokenizer's ids that it lacks. Raises UsageError where it
    would need to, and for a generation config that the job does not go with.
    """
    fit_embeddings(model, tokenizer, may_grow)
    generation = settle_generation(model, job.training)
    evaluation = job.evaluation
    about = (evaluation.exits, job.calibration is not None, evaluation.shared.adaptive is not None)
    check_generation(generation, source.checkpoint, job.training, *about)
    if evaluation.exits:
        check_served(model, source.checkpoint, job.training)
    return generation


def check_exits(model, policies: Collection[ExitPolicy]) -> None:
    """Raises UsageError for exit adapters of another model, and for policies whose exit heads or shortlists
    the model lacks."""
    try:
        model.check_exit_adapters()
    except ValueError as error:
        raise UsageError(f"--model_name_or_path: {error}") from error
    try:
        for name in {policy.measure for policy in policies} - {None}:
            if head_kind(name) is not None:
                model.check_exit_heads(name)
    except ValueError as error:
        raise UsageError(f"--exit_conf_type: {error}") from error
    try:
        for size in {policy.shortlist for policy in policies} - {None}:
            shortlist_of(model, size)
    except ValueError as error:
        raise UsageError(f"--shortlist: {error}") from error
