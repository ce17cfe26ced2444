"""Flags: what to load, what to read, where to exit. transformers' training arguments come beside them."""

from dataclasses import dataclass, field

from early_exit import LAYER_WEIGHTINGS, MEASURES, PRECISIONS, ExitPolicy
from models.shapes import SHAPES
from util.errors import UsageError


def _arg(default, help: str, **metadata):
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class ModelArguments:
    """Which model."""

    model_name_or_path: str | None = _arg(None, "T5 or mT5 checkpoint: a folder or a hub id.")
    model_shape: str | None = _arg(
        None, f"Start from random weights in this shape instead: {', '.join(SHAPES)}."
    )
    tokenizer_name: str | None = _arg(
        None, "Tokenizer, if not the model's own. A model that starts from nothing trains one otherwise."
    )
    tokenizer_vocab_size: int = _arg(2000, "Pieces of a tokenizer trained here, at most.")
    dropout_rate: float | None = _arg(None, "Dropout in training, if not the model's own.")
    cache_dir: str | None = _arg(None, "Where downloads are kept.")
    model_revision: str = _arg("main", "Branch, tag or commit of a hub model.")
    token: str | None = _arg(None, "Access token for the hub.")
    trust_remote_code: bool = _arg(False, "Run code that a hub repository brings along.")


@dataclass
class DataArguments:
    """Which documents and summaries, and how much of them."""

    dataset_name: str | None = _arg(
        None, "Hub id, such as abisee/cnn_dailymail, or 'embedded' for the corpus made here."
    )
    dataset_config_name: str | None = _arg(None, "Configuration of a hub data set, such as 3.0.0.")
    train_file: str | None = _arg(None, "Training examples: .json, .jsonl or .csv.")
    validation_file: str | None = _arg(None, "Examples for --do_eval.")
    test_file: str | None = _arg(None, "Examples for --do_predict.")
    text_column: str | None = _arg(None, "Column of the documents; found by itself in known data sets.")
    summary_column: str | None = _arg(None, "Column of the summaries, likewise.")
    source_prefix: str | None = _arg(None, "Put before every document, such as 'summarize: '.")
    max_source_length: int = _arg(512, "Tokens of a document that are read; the rest is cut off.")
    max_target_length: int = _arg(128, "Tokens of a summary in training.")
    val_max_target_length: int | None = _arg(
        None, "Tokens of a generated summary at most, the start token included; default --max_target_length."
    )
    max_train_samples: int | None = _arg(None, "Use the first so many training examples.")
    max_eval_samples: int | None = _arg(None, "Use the first so many validation examples.")
    max_predict_samples: int | None = _arg(None, "Use the first so many test examples.")
    num_beams: int | None = _arg(None, "Beams of transformers' own decoding; exits decode without.")
    preprocessing_num_workers: int | None = _arg(None, "Processes that tokenize.")
    overwrite_cache: bool = _arg(False, "Tokenize anew even where a cached result exists.")

    @property
    def generation_length(self) -> int:
        """Longest generated sequence in tokens, the decoder's start token included."""
        return self.val_max_target_length or self.max_target_length


@dataclass
class ExitArguments:
    """Training losses at the exits, and where tokens leave."""

    output_hidden_states_decoder: bool = _arg(False, "Train with a loss at every exit.")
    intermediate_loss_fn: str | None = _arg(
        None, "Weights of the exits' losses: weighted_ce (i / sum, the default) or ce (equal)."
    )
    use_early_exit: bool = _arg(False, "Tokens leave at the first layer that is confident enough.")
    exit_conf_type: str | None = _arg(None, f"Confidence measure: {', '.join(MEASURES)}. Default softmax.")
    exit_conf_threshold: list[float] | None = field(
        default=None,
        metadata={
            "help": "λ in [0, 1]: leave where confidence > λ; default 1, never. Several values make a sweep."
        },
    )
    exit_min_layer: int = _arg(0, "No exit is tried before so many decoder layers have run.")
    exit_position_temp: float | None = _arg(
        None, "τ of the positional decay λ·(0.9 + 0.1·exp(−τ·t/T)); off if not given."
    )
    static_exit_layer: list[str] | None = field(
        default=None,
        metadata={"help": "Every token leaves at this layer, 1 to L. Several, or 'all', make a sweep."},
    )
    engine_precision: str | None = _arg(
        None,
        f"What decoding with exits computes in, encoder included: {', '.join(PRECISIONS)}. "
        "Default: the type that the model is in.",
    )
    deploy_scenario: bool = _arg(
        False, "Decode as deployed and time it: a warm-up batch first, full depth through the same loop."
    )
    use_synchronize: bool = _arg(False, "Wait for the device before the clock is read.")
    overwrite_output_dir: bool = _arg(
        False, "Use a non-empty output folder; an interrupted run with the same settings still resumes."
    )

    def __post_init__(self):
        """Settings files may give one value where the command line gives a list of them."""
        if self.static_exit_layer is not None:
            layers = self.static_exit_layer
            self.static_exit_layer = [
                str(layer) for layer in (layers if isinstance(layers, list) else [layers])
            ]
        if self.exit_conf_threshold is None:
            return
        thresholds = self.exit_conf_threshold
        thresholds = thresholds if isinstance(thresholds, list) else [thresholds]
        if not all(isinstance(threshold, int | float) for threshold in thresholds):
            raise UsageError(f"exit_conf_threshold {thresholds} is not a number or a list of numbers")
        self.exit_conf_threshold = [float(threshold) for threshold in thresholds]

    @property
    def layer_weighting(self) -> str:
        """Name of the training loss's weighting over exits (`early_exit.LAYER_WEIGHTINGS`)."""
        if not self.output_hidden_states_decoder:
            return "last_ce"
        return self.intermediate_loss_fn or "weighted_ce"

    @property
    def decodes_with_exits(self) -> bool:
        """Whether evaluation runs this project's decoding rather than transformers'."""
        return self.deploy_scenario or self.use_early_exit or self.static_exit_layer is not None

    @property
    def is_sweep(self) -> bool:
        """Whether several settings are asked for at once."""
        layers = self.static_exit_layer or []
        return len(layers) > 1 or layers == ["all"] or len(self.exit_conf_threshold or []) > 1

    def policies(self, num_layers: int | None) -> list[ExitPolicy]:
        """The exit policies to evaluate on a model of L layers; one unless this is a sweep.

        With None, before the model is known, values are checked as far as they can be.

        Raises UsageError for values outside their ranges.
        """
        try:
            if self.static_exit_layer is not None:
                policies = [ExitPolicy(static_layer=layer) for layer in self._static_layers(num_layers)]
            elif self.use_early_exit:
                policies = [
                    ExitPolicy(
                        measure=self.exit_conf_type or "softmax",
                        threshold=threshold,
                        min_layer=self.exit_min_layer,
                        position_temperature=self.exit_position_temp,
                    )
                    for threshold in dict.fromkeys(self.exit_conf_threshold or [1.0])
                ]
            else:
                policies = [ExitPolicy()]
            if num_layers is not None:
                for policy in policies:
                    policy.last_layer(num_layers)
        except ValueError as error:
            raise UsageError(str(error)) from error
        return policies

    def _static_layers(self, num_layers: int | None) -> list[int]:
        if self.static_exit_layer == ["all"]:
            return list(range(1, (num_layers or 1) + 1))
        layers = []
        for text in self.static_exit_layer:
            if not text.lstrip("-").isdigit():
                raise UsageError(f"--static_exit_layer {text!r} is neither a layer number nor 'all'")
            layers.append(int(text))
        return list(dict.fromkeys(layers))


def check_arguments(model: ModelArguments, data: DataArguments, exits: ExitArguments, training) -> None:
    """Raises UsageError for flags that are unknown, out of range or contradict each other.

    training: transformers' `Seq2SeqTrainingArguments`. What needs the model or the data is checked
    once these are loaded.
    """
    if not (training.do_train or training.do_eval or training.do_predict):
        raise UsageError("nothing to do: give at least one of --do_train, --do_eval, --do_predict")
    if (model.model_name_or_path is None) == (model.model_shape is None):
        raise UsageError("give exactly one of --model_name_or_path and --model_shape")
    if model.model_shape is not None and model.model_shape not in SHAPES:
        raise UsageError(f"unknown model shape {model.model_shape!r}; known: {', '.join(SHAPES)}")
    if model.model_shape is not None and not training.do_train:
        raise UsageError("--model_shape starts from random weights, so it needs --do_train")
    _check_data_sources(data, training)
    _check_numbers(model, data)
    longest = training.generation_max_length or data.generation_length
    if training.predict_with_generate and longest < 2:
        raise UsageError(f"generation of at most {longest} tokens, the start token included, is empty")
    _check_exits(data, exits, training)


def _check_data_sources(data: DataArguments, training) -> None:
    files = {
        "--train_file": data.train_file,
        "--validation_file": data.validation_file,
        "--test_file": data.test_file,
    }
    given = [flag for flag, path in files.items() if path is not None]
    if data.dataset_name is not None and given:
        raise UsageError(f"--dataset_name and {given[0]} contradict each other; give one source of data")
    if data.dataset_name is not None:
        return
    if not given:
        raise UsageError("no data: give --dataset_name, or --train_file, --validation_file, --test_file")
    for wanted, flag in zip((training.do_train, training.do_eval, training.do_predict), files, strict=True):
        if wanted and files[flag] is None:
            raise UsageError(f"{flag} is missing")


def _check_numbers(model: ModelArguments, data: DataArguments) -> None:
    if model.dropout_rate is not None and not 0 <= model.dropout_rate < 1:
        raise UsageError(f"--dropout_rate {model.dropout_rate} is outside [0, 1)")
    lowest = {
        "tokenizer_vocab_size": (model.tokenizer_vocab_size, 100),
        "max_source_length": (data.max_source_length, 1),
        "max_target_length": (data.max_target_length, 1),
        "val_max_target_length": (data.val_max_target_length, 2),
        "max_train_samples": (data.max_train_samples, 1),
        "max_eval_samples": (data.max_eval_samples, 1),
        "max_predict_samples": (data.max_predict_samples, 1),
        "num_beams": (data.num_beams, 1),
    }
    for name, (value, low) in lowest.items():
        if value is not None and value < low:
            raise UsageError(f"--{name} {value} is too small; allowed: {low} and above")


def _check_exits(data: DataArguments, exits: ExitArguments, training) -> None:
    if exits.engine_precision not in (None, *PRECISIONS):
        raise UsageError(
            f"unknown engine precision {exits.engine_precision!r}; known: {', '.join(PRECISIONS)}"
        )
    if exits.engine_precision is not None and not exits.decodes_with_exits:
        raise UsageError(
            "--engine_precision has no effect without --deploy_scenario True, --use_early_exit True "
            "or --static_exit_layer"
        )
    if exits.use_early_exit and exits.static_exit_layer is not None:
        raise UsageError("--static_exit_layer and --use_early_exit contradict each other; give one")
    if exits.exit_conf_threshold is not None and not exits.use_early_exit:
        raise UsageError("--exit_conf_threshold has no effect without --use_early_exit True")
    if exits.exit_conf_type is not None and exits.exit_conf_type not in MEASURES:
        raise UsageError(f"unknown --exit_conf_type {exits.exit_conf_type!r}; known: {', '.join(MEASURES)}")
    losses = [name for name in LAYER_WEIGHTINGS if name != "last_ce"]
    if exits.intermediate_loss_fn is not None and exits.intermediate_loss_fn not in losses:
        raise UsageError(
            f"unknown --intermediate_loss_fn {exits.intermediate_loss_fn!r}; known: {', '.join(losses)}"
        )
    if exits.intermediate_loss_fn is not None and not exits.output_hidden_states_decoder:
        raise UsageError("--intermediate_loss_fn needs --output_hidden_states_decoder True")
    if training.fp16:
        raise UsageError("--fp16 is not supported: T5 overflows in it; use --bf16")
    if training.label_smoothing_factor:
        raise UsageError("--label_smoothing_factor is not supported by the losses at the exits")
    beams = data.num_beams or training.generation_num_beams or 1
    if exits.decodes_with_exits and beams > 1:
        raise UsageError(f"early exit decodes without beams, got --num_beams {beams}")
    if exits.decodes_with_exits and not training.predict_with_generate:
        raise UsageError("exit flags take effect in generation: add --predict_with_generate")
    if exits.is_sweep and not training.do_eval:
        raise UsageError("several thresholds or layers make a sweep, which needs --do_eval")
    if exits.is_sweep and (training.do_train or training.do_predict):
        raise UsageError("a sweep evaluates only: leave out --do_train and --do_predict")
    exits.policies(num_layers=None)
