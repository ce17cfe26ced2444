"""`--calibrate_reference`: the model whose texts a calibration compares with."""

from dataclasses import replace

from transformers import PreTrainedModel

from early_exit import DecodingSetting
from early_exit.models.hashes import json_hash
from early_exit.models.pipeline import model_pipeline, tokenizer_hash
from runner.model import load_model_and_tokenizer
from runner.values import Run
from util.calibration_plan import ReferenceModel
from util.check_generation import check_generation, settle_generation
from util.errors import UsageError
from util.tokenizer import fit_embeddings


def load_reference(this: Run) -> tuple[PreTrainedModel, ReferenceModel]:
    """The model, ready to decode on the run's device with the run's limits, and what stands for it.

    Raises UsageError for what cannot be loaded, has another tokenizer than the calibrated model, whose
    prompts it reads, or has a generation config that no calibration serves.
    """
    model_args, data, exits, calibration, training = this.arguments
    name = calibration.calibrate_reference
    named = replace(model_args, model_name_or_path=name, tokenizer_name=None, model_revision="main")
    try:
        model, tokenizer = load_model_and_tokenizer(named, this.texts)
        if tokenizer_hash(tokenizer) != tokenizer_hash(this.tokenizer):
            raise UsageError(f"its tokenizer is not that of {model_args.model_name_or_path}")
        fit_embeddings(model, tokenizer, may_grow=False)
        generation = settle_generation(model, data, training)
        check_generation(generation, named, exits, calibration, training)
    except UsageError as error:
        raise UsageError(f"--calibrate_reference {name}: {error}") from error
    model.to(training.device).eval()
    of_texts = {**model_pipeline(model, DecodingSetting(), training.device), "generation": generation}
    return model, ReferenceModel(name, json_hash(of_texts, length=12))
