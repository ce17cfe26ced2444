"""`--train_exit_adapters` of the entry points: the adapters of a run's model."""

from transformers import Seq2SeqTrainingArguments

from util.errors import UsageError
from util.exit_arguments import ExitArguments


def prepare_adapters(model, exits: ExitArguments, training: Seq2SeqTrainingArguments) -> None:
    """Makes the adapters that are to be trained. Raises UsageError for a rank that does not fit the model,
    for adapters of another model, and where training would change the model that there are adapters for."""
    if exits.train_exit_adapters:
        try:
            model.add_exit_adapters(exits.exit_adapter_rank)
        except ValueError as error:
            raise UsageError(f"--exit_adapter_rank: {error}") from error
        return
    try:
        model.check_exit_adapters()
    except ValueError as error:
        raise UsageError(f"--model_name_or_path: {error}") from error
    if model.exit_adapters is not None and training.do_train and not exits.keeps_model:
        raise UsageError(
            "the model has exit adapters, which training of the model itself would leave behind: train the "
            "checkpoint without them (--train_exit_adapters and --train_meta_cm_head alone keep the model)"
        )
