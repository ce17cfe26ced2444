"""Training flags that are out of range or contradict each other."""

from early_exit import OBJECTIVES
from early_exit.training.curricula import CURRICULA
from util.arguments import ModelArguments
from util.errors import UsageError
from util.exit_arguments import ExitArguments


def check_objectives(exits: ExitArguments, model: ModelArguments, training) -> None:
    """Raises UsageError for what training cannot be asked for. training: `Seq2SeqTrainingArguments`."""
    _check_objective(exits)
    _check_perturbation(exits, training)
    _check_curriculum(exits, training)
    _check_lora(exits, model, training)
    _check_own_text(exits, model, training)
    _check_adapters(exits, model, training)


def _check_adapters(exits: ExitArguments, model: ModelArguments, training) -> None:
    rank = exits.exit_adapter_rank
    if not exits.train_exit_adapters:
        if rank is not None:
            raise UsageError("--exit_adapter_rank has no effect without --train_exit_adapters True")
        return
    if not training.do_train:
        raise UsageError("--train_exit_adapters needs --do_train")
    if model.model_shape is not None:
        raise UsageError("--train_exit_adapters adapts a trained model's exits: give --model_name_or_path")
    if rank is not None and rank < 1:
        raise UsageError(f"--exit_adapter_rank {rank} is too small; allowed: 1 and above")
    others = "train_meta_cm_head output_hidden_states_decoder intermediate_loss_fn do_layer_transformation"
    for flag in f"{others} exit_propagation layer_dropout use_lora exit_loss_curriculum".split():
        if getattr(exits, flag) not in (None, False, 0.0, "none"):
            raise UsageError(
                f"--train_exit_adapters and --{flag} contradict each other: adapters learn full depth's "
                "predictions, and the model stays as it is"
            )


def _check_lora(exits: ExitArguments, model: ModelArguments, training) -> None:
    names = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules")
    given = [name for name in names if getattr(exits, name) is not None]
    if not exits.use_lora:
        if given:
            raise UsageError(f"--{given[0]} has no effect without --use_lora True")
        return
    if not training.do_train or exits.keeps_model:
        raise UsageError("--use_lora needs --do_train, and trains the model rather than exit heads")
    if model.model_shape is not None:
        raise UsageError("--use_lora adapts a trained model: give --model_name_or_path")
    try:
        _ = exits.lora
    except ValueError as error:
        raise UsageError(str(error)) from error


def _check_perturbation(exits: ExitArguments, training) -> None:
    for flag in ("exit_propagation", "layer_dropout"):
        share = getattr(exits, flag)
        if not 0 <= share <= 1:
            raise UsageError(f"--{flag} {share} is outside [0, 1]")
        if share and not (exits.output_hidden_states_decoder and training.do_train):
            raise UsageError(f"--{flag} needs --do_train and --output_hidden_states_decoder True")
        if share and (training.gradient_checkpointing or training.activation_checkpointing):
            raise UsageError(f"--{flag} keeps all activations: leave out --gradient_checkpointing")


def _check_curriculum(exits: ExitArguments, training) -> None:
    name, known = exits.exit_loss_curriculum, ("none", *CURRICULA)
    if name not in known:
        raise UsageError(f"unknown --exit_loss_curriculum {name!r}; known: {', '.join(known)}")
    if exits.curriculum is None:
        return
    if not (exits.output_hidden_states_decoder and training.do_train):
        raise UsageError("--exit_loss_curriculum needs --do_train and --output_hidden_states_decoder True")
    if exits.objective.is_shallow_deep:
        raise UsageError(f"--exit_loss_curriculum has no exits to choose from in {exits.objective.name}")


def _check_objective(exits: ExitArguments) -> None:
    name, known = exits.intermediate_loss_fn, [name for name in OBJECTIVES if name != "last_ce"]
    if name is not None and name not in known:
        raise UsageError(f"unknown --intermediate_loss_fn {name!r}; known: {', '.join(known)}")
    if name is not None and not exits.output_hidden_states_decoder:
        raise UsageError("--intermediate_loss_fn needs --output_hidden_states_decoder True")
    hidden_states = [known for known in OBJECTIVES if known.startswith("shallowdeep_kd")]
    needs = {
        "distill_layer_alpha": ["kd_logits", *hidden_states],
        "distill_temperature": ["kd_logits"],
        "do_layer_transformation": hidden_states,
        "exit_loss_scale": ["layerskip_ce"],
    }
    for flag, objectives in needs.items():
        if getattr(exits, flag) not in (None, False) and name not in objectives:
            raise UsageError(
                f"--{flag} has no effect without --intermediate_loss_fn {' or '.join(objectives)}"
            )
    try:
        _ = exits.objective
    except ValueError as error:
        flags = "--intermediate_loss_fn, --shallow_exit_layer, --distill_layer_alpha, --distill_temperature, "
        flags += "--exit_loss_scale"
        raise UsageError(f"{error} ({flags})") from error


def _check_own_text(exits: ExitArguments, model: ModelArguments, training) -> None:
    share = exits.own_text_gold_share
    if not exits.train_on_own_text:
        given = [name for name in ("own_text_file", "unlabelled_file") if getattr(exits, name) is not None]
        given += ["own_text_gold_share"] if share else []
        if given:
            raise UsageError(f"--{given[0]} has no effect without --train_on_own_text True")
        return
    if not training.do_train:
        raise UsageError("--train_on_own_text needs --do_train")
    if model.model_shape is not None:
        raise UsageError(
            "--train_on_own_text needs a trained model to write the texts: give --model_name_or_path"
        )
    if not (exits.output_hidden_states_decoder or exits.keeps_model):
        raise UsageError(
            "--train_on_own_text teaches exits: it needs --output_hidden_states_decoder True, "
            "--train_exit_adapters True or --train_meta_cm_head"
        )
    if not 0 <= share < 1:
        raise UsageError(
            f"--own_text_gold_share {share} is outside [0, 1); with gold texts alone leave out "
            "--train_on_own_text"
        )
