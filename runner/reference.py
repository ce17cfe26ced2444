"""`--calibrate_reference`: the model whose texts a calibration compares with."""

from transformers import PreTrainedModel

from early_exit import DecodingSetting
from early_exit.models.hashes import json_hash
from early_exit.models.pipeline import model_pipeline, tokenizer_hash
from runner.model import load_model_and_tokenizer, ready_to_decode
from runner.values import ModelSource, Run
from util.calibration_plan import ReferenceModel
from util.errors import UsageError


def load_reference(source: ModelSource, this: Run) -> tuple[PreTrainedModel, ReferenceModel]:
    """The model, ready to decode on the run's device with the run's limits, and what stands for it.

    Raises UsageError for what cannot be loaded, has another tokenizer than the calibrated model, whose
    prompts it reads, or has a generation config that no calibration serves.
    """
    device = this.job.training.device
    try:
        model, tokenizer = load_model_and_tokenizer(source, this.texts)
        if tokenizer_hash(tokenizer) != tokenizer_hash(this.tokenizer):
            raise UsageError(f"its tokenizer is not that of {this.job.model.checkpoint}")
        generation = ready_to_decode(model, tokenizer, source, this.job, may_grow=False)
    except UsageError as error:
        raise UsageError(f"--calibrate_reference {source.checkpoint}: {error}") from error
    model.to(device).eval()
    of_texts = {**model_pipeline(model, DecodingSetting(), device), "generation": generation}
    return model, ReferenceModel(source.checkpoint, json_hash(of_texts, length=12))
