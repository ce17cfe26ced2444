"""Every training argument of transformers is honoured, checked or refused; False is False for every flag."""

import json
from dataclasses import fields
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig, Seq2SeqTrainingArguments

from tests.cli.conftest import call, eval_flags, train_flags
from tests.cli.test_bad_input import fails_with
from util.command_line import Arguments, parse_arguments
from util.errors import UsageError
from util.training_flags import CHECKED, HONOURED, REFUSED

# A value of each refused argument that is not its default.
REFUSED_VALUES = {
    "label_smoothing_factor": "0.1",
    "neftune_noise_alpha": "5",
    "use_liger_kernel": "True",
    "liger_kernel_config": '{"rope": true}',
    "logging_nan_inf_filter": "False",
    "eval_do_concat_batches": "False",
    "eval_use_gather_object": "True",
    "eval_accumulation_steps": "2",
    "include_for_metrics": "loss",
    "batch_eval_metrics": "True",
    "save_on_each_node": "True",
    "enable_jit_checkpoint": "True",
    "push_to_hub": "True",
    "hub_model_id": "me/model",
    "hub_strategy": "end",
    "hub_token": "secret",
    "hub_private_repo": "True",
    "hub_always_push": "True",
    "hub_revision": "main",
    "label_names": "labels",
    "length_column_name": "size",
    "sortish_sampler": "True",
    "fsdp": "full_shard",
    "fsdp_config": '{"min_num_params": 1}',
    "deepspeed": "ds.json",
    "parallelism_config": None,  # an object, which the command line cannot give
}
# Checked arguments where they do not fit.
MISFITS = [
    (["--fp16", "True"], "--fp16"),
    (["--fp16_full_eval", "True"], "--fp16_full_eval"),
    (["--bf16_full_eval", "True", "--predict_with_generate", "--static_exit_layer", "1"], "--bf16_full_eval"),
    (["--optim", "adamw_8bit_of_mine"], "--optim"),
    (["--optim", "galore_adamw"], "galore"),
    (["--optim_target_modules", "q"], "--optim_target_modules has no effect"),
    (["--optim_args", "nothing"], "--optim"),
    (["--lr_scheduler_type", "cosine_with_min_lr"], "--lr_scheduler_type cosine_with_min_lr"),
    (["--lr_scheduler_kwargs", '{"cycles": 3}', "--lr_scheduler_type", "cosine"], "_type cosine"),
    (["--lr_scheduler_kwargs", "[1]"], "lr_scheduler_kwargs"),
    (["--report_to", "paper"], "--report_to 'paper'"),
    (["--debug", "tpu_metrics_debug"], "tpu_metrics_debug"),
    (["--local_rank", "3"], "--local_rank 3"),
    (["--prediction_loss_only", "True", "--predict_with_generate"], "contradict each other"),
    (["--eval_on_start", "True"], "--eval_on_start needs"),
    (["--generation_config", "/nowhere"], "--generation_config"),
    (["--generation_num_beams", "0"], "--generation_num_beams 0"),
    (["--metric_for_best_model", "bleu", "--load_best_model_at_end", "True"], "load_best_model_at_end"),
    (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0"),
    (["--gradient_accumulation_steps", "0"], "--gradient_accumulation_steps 0"),
    (["--learning_rate", "nan"], "--learning_rate nan"),
    (["--learning_rate", "-1"], "--learning_rate -1"),
    (["--num_train_epochs", "-1"], "--num_train_epochs -1"),
    (["--seed", "-1"], "--seed -1"),
    (["--warmup_steps", "-1"], "warmup_steps"),
    (["--adam_beta1", "1.5"], "beta"),
    (["--adam_epsilon", "-1"], "psilon"),
    (["--save_steps", "-5"], "--save_steps -5"),
    (["--logging_steps", "0"], "logging_steps"),
    (["--max_steps", "0"], "max_steps"),
    (["--save_total_limit", "0"], "save_total_limit"),
]  # fmt: skip


def test_every_training_argument_is_in_one_group():
    names = [field.name for field in fields(Seq2SeqTrainingArguments) if field.init]
    groups = [HONOURED, CHECKED, set(REFUSED)]
    assert {name: sum(name in group for group in groups) for name in names} == dict.fromkeys(names, 1)
    assert set().union(*groups) == set(names)


def test_there_is_a_value_for_every_refused_argument():
    assert set(REFUSED_VALUES) == set(REFUSED)


@pytest.mark.parametrize("name", [name for name, value in REFUSED_VALUES.items() if value is not None])
def test_what_has_no_effect_is_refused(name, tmp_path):
    with pytest.raises(UsageError, match=name):
        parse_arguments(train_flags(tmp_path / "o", f"--{name}", REFUSED_VALUES[name]))
    file = tmp_path / "settings.json"
    settings = {"model_shape": "tiny", "dataset_name": "embedded", "do_train": True, "use_cpu": True}
    value = REFUSED_VALUES[name]
    value = json.loads(value) if value.startswith("{") else value
    file.write_text(json.dumps({**settings, "output_dir": str(tmp_path / "o"), name: value}))
    with pytest.raises(UsageError, match=name):
        parse_arguments([str(file)])


@pytest.mark.parametrize(("more", "message"), MISFITS)
def test_what_does_not_fit_is_named(more, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        parse_arguments(train_flags(tmp_path / "o", *more))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_an_evaluation_is_named(tmp_path):
    for more, message in (
        (["--bf16", "True"], "--bf16 has no effect without --do_train"),
        (["--torch_compile", "True"], "--torch_compile has no effect without --do_train"),
        (["--resume_from_checkpoint", "x"], "--resume_from_checkpoint has no effect without --do_train"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_arguments(eval_flags(tmp_path / "m", tmp_path / "o", *more))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "ACCELERATE_USE_FSDP=true"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "deepspeed|DEEPSPEED"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "ACCELERATE_MIXED_PRECISION=fp16"),
    ],
)
def test_what_the_surroundings_ask_for_is_checked_as_flags_are(
    variable, value, message, monkeypatch, tmp_path
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=message):
        parse_arguments(train_flags(tmp_path / "o"))


def kinds(hint) -> tuple:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


BOOLEANS = {
    field.name: field.default
    for group in get_type_hints(Arguments).values()
    for field in fields(group)
    if field.init and bool in kinds(get_type_hints(group)[field.name])
}


def parsed(flags) -> dict:
    """All values by name, but for those that differ from run to run."""
    values = {}
    for group in parse_arguments(flags):
        values |= {field.name: getattr(group, field.name) for field in fields(group) if field.init}
        values |= {"measures": group.measures} if hasattr(group, "measures") else {}
    return {name: repr(value) for name, value in values.items()}


# False of these is refused, or leaves nothing to do, or is written as text.
_OTHERWISE = {
    "do_train", "logging_nan_inf_filter", "eval_do_concat_batches", "resume_from_checkpoint",
    "parallel_gen_token",
}  # fmt: skip


def test_there_are_booleans_in_every_group():
    assert {"trust_remote_code", "overwrite_cache", "train_meta_cm_head", "do_cali", "bf16"} <= set(BOOLEANS)


@pytest.mark.parametrize("name", sorted(set(BOOLEANS) - _OTHERWISE))
@pytest.mark.parametrize("word", ["False", "no"])
def test_false_is_false(name, word, tmp_path):
    base = train_flags(tmp_path / "o")
    for flag in ("--output_hidden_states_decoder", "--intermediate_loss_fn", "--disable_tqdm"):
        del base[base.index(flag) : base.index(flag) + 2]
    base.remove("--use_cpu")
    unset, given = parsed(base), parsed([*base, f"--{name}", word])
    assert given == parsed([*base, f"--{name}={word}"])
    assert given[name] in ("False", repr(word), unset[name])
    changed = {other for other, value in given.items() if value != unset[other]}
    assert not changed if BOOLEANS[name] is False else changed <= {name}


@pytest.mark.parametrize("name", sorted(set(BOOLEANS) - _OTHERWISE))
@pytest.mark.parametrize("value", [False, "False", "no"])
def test_false_is_false_in_a_settings_file(name, value, tmp_path):
    settings = {"model_shape": "tiny", "dataset_name": "embedded", "do_train": True}
    settings["output_dir"] = str(tmp_path)
    contents = []
    for number, more in enumerate(({}, {name: value})):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps(settings | more))
        contents.append(parsed([str(file)]))
    unset, given = contents
    changed = {other for other, value in given.items() if value != unset[other]}
    assert not changed if BOOLEANS[name] is False else changed <= {name}


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_training_arguments_do_what_they_say(tmp_path):
    plain, more = tmp_path / "plain", tmp_path / "more"
    every = ["--logging_steps", "2", "--dropout_rate", "0"]
    assert call(*train_flags(plain, *every, "--save_steps", "1")) == 0
    assert len(list(plain.glob("checkpoint-*"))) == 4
    flags = [
        "--save_steps", "1", "--save_total_limit", "2", "--logging_first_step", "True",
        "--gradient_checkpointing", "True", "--do_eval", "--eval_on_start", "True",
        "--eval_strategy", "steps", "--eval_steps", "1", "--eval_delay", "3",
        "--max_eval_samples", "3", "--save_only_model", "True",
    ]  # fmt: skip
    assert call(*train_flags(more, *every, *flags)) == 0
    assert len(list(more.glob("checkpoint-*"))) == 2
    assert not list(more.glob("checkpoint-*/optimizer.pt"))
    assert len(losses(more)) == len(losses(plain)) + 1
    history = json.loads((more / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [0, 3, 4]
    expected, saved = (load_file(folder / "model.safetensors") for folder in (plain, more))
    for name, weight in expected.items():  # gradient checkpointing computes the same
        torch.testing.assert_close(saved[name], weight)


@pytest.mark.parametrize(
    "more",
    [
        ["--train_sampling_strategy", "group_by_length"],
        ["--data_seed", "7"],
        ["--dataloader_drop_last", "True", "--max_train_samples", "9", "--num_train_epochs", "2"],
        ["--optim", "adafactor"],
        ["--weight_decay", "0.5"],
        ["--adam_beta1", "0.5"],
        ["--max_grad_norm", "0.01"],
        ["--lr_scheduler_type", "cosine"],
        ["--warmup_steps", "3"],
        ["--seed", "3"],
        ["--bf16", "True"],
        ["--gradient_accumulation_steps", "2"],
    ],
    ids=lambda more: more[0],
)  # fmt: skip
def test_what_is_honoured_changes_what_is_trained(model, tmp_path, more):
    assert call(*train_flags(tmp_path, *more)) == 0
    one, two = (load_file(folder / "model.safetensors") for folder in (model, tmp_path))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_generation_config_of_ones_own_is_used(model, tmp_path):
    GenerationConfig(
        max_new_tokens=3, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
    ).save_pretrained(tmp_path / "config")
    for name, more in (("own", ["--generation_config", str(tmp_path / "config")]), ("model's", [])):
        assert call(*eval_flags(model, tmp_path / name, "--max_target_length", "9", *more)) == 0
    lengths = [
        json.loads((tmp_path / name / "eval_results.json").read_text())["eval_gen_len"]
        for name in ("own", "model's")
    ]
    assert lengths[0] == 3 < lengths[1]


def test_exits_of_a_model_just_trained_in_mixed_precision_are_evaluated(tmp_path):
    """accelerate leaves a wrapped forward on it, and the engine reads its weights all the same."""
    more = ["--bf16", "True", "--do_eval", "--predict_with_generate", "--static_exit_layer", "1"]
    assert call(*train_flags(tmp_path, *more, "--max_eval_samples", "3")) == 0
    assert json.loads((tmp_path / "eval_results.json").read_text())["eval_block_avg"] == 1


def test_exit_heads_are_not_evaluated_in_bfloat16(capsys, model, tmp_path):
    flags = ["--train_meta_cm_head", "--exit_conf_type", "MLP", "--do_train", "--bf16_full_eval", "True"]
    fails_with(capsys, [*eval_flags(model, tmp_path / "o"), *flags], "--bf16_full_eval is not for exit heads")
    assert not (tmp_path / "o").exists()
