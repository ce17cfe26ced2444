"""Modules that compute something else than their weights say: merged, or refused by name."""

import copy

import accelerate
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import (
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import nn
from torch.nn.utils import parametrize

from early_exit import ExitPolicy
from early_exit.models.engines import engine_for
from early_exit.models.generation import reference_generate
from tests.strategies import examples
from tests.tiny import MODELS, source_batch, tiny_model

FULL_DEPTH, INPUTS = ExitPolicy(), source_batch(3, 9)
ALL = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"]


def adapted(config, family="t5", seed=0):
    """A PEFT model whose adapters are far from nothing."""
    model = get_peft_model(tiny_model(family), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
            assert "lora" in name or "ia3" in name or "modules_to_save" in name
    return model.eval()


def lora(**options):
    return LoraConfig(
        **{"r": 3, "lora_alpha": 5, "target_modules": ["q", "v"], "lora_dropout": 0.1} | options
    )


CONFIGS = {
    "lora": lora(),
    "all layers": lora(target_modules=ALL),
    "rank-stabilised": lora(use_rslora=True),
    "dora": lora(use_dora=True, target_modules=["q", "v", "wo"]),
    "ia3": IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]),
    "lm head": lora(target_modules=["q", "lm_head"]),
    "embedding": lora(target_modules=["q", "shared"]),
    "saved copy": lora(modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["t5 v1.1", "umt5"])
def test_adapters_count(name, family):
    """The texts are those of PEFT's own merged model, and of transformers' loop with adapters in place."""
    model = adapted(CONFIGS[name], family)
    options = {**INPUTS, "max_new_tokens": 10}
    expected = model.generate(**options, exit_policy=None)
    plain = tiny_model(family).generate(**options, exit_policy=None)
    assert not torch.equal(expected, plain)
    assert torch.equal(model.generate(**options, exit_policy=FULL_DEPTH), expected)
    assert torch.equal(model.base_model.model.generate(**options, exit_policy=FULL_DEPTH), expected)
    exits = ExitPolicy(static_layer=2)
    decoded = model.generate(**options, exit_policy=exits)
    reference = {"exit_policy": exits, "custom_generate": reference_generate}  # runs the modules themselves
    assert torch.equal(decoded, model.generate(**options, **reference))
    if name not in ("lm head", "embedding"):  # PEFT merges one of two tied weights into both
        merged = copy.deepcopy(model).merge_and_unload()
        assert torch.equal(decoded, merged.generate(**options, exit_policy=exits))


@examples(0.3)
@given(
    st.lists(
        st.sampled_from(["off", "on", "other", "default", "merge", "unmerge", "scale"]),
        min_size=2,
        max_size=5,
    )
)
def test_switching_adapters_is_noticed(changes):
    model = adapted(lora())
    model.add_adapter("other", lora(target_modules=["k", "o"]))
    model.eval()
    for name, parameter in model.named_parameters():
        if "other" in name:
            parameter.data += 0.3
    for change in changes:
        switches = {
            "off": model.base_model.disable_adapter_layers,
            "on": model.base_model.enable_adapter_layers,
            "merge": model.merge_adapter,
            "unmerge": model.unmerge_adapter,
            "scale": lambda: [
                each.scale_layer(0.1) for each in model.modules() if hasattr(each, "scale_layer")
            ],
        }
        switches.get(change, lambda name=change: model.set_adapter(name))()
        options = {**INPUTS, "max_new_tokens": 6}
        decoded = model.generate(**options, exit_policy=FULL_DEPTH)
        assert torch.equal(decoded, model.generate(**options, exit_policy=None))


def test_decoding_leaves_adapters_as_they_were():
    model = adapted(lora(use_dora=True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.generate(**INPUTS, max_new_tokens=3, exit_policy=FULL_DEPTH, engine_precision="int8")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [PrefixTuningConfig, PromptTuningConfig])
def test_prompt_learning_is_refused(kind):
    config = kind(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    model = get_peft_model(tiny_model(), config)
    with pytest.raises(ValueError, match="prompt or prefix tuning"):
        model.generate(**INPUTS, max_new_tokens=3, exit_policy=FULL_DEPTH)


class _Bias(nn.Module):
    def forward(self, weight):
        return weight + 1


def _hook(model, name):
    model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output)


def _pre_hook(model, name):
    model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: inputs)


def _parametrized(model, name):
    parametrize.register_parametrization(model.get_submodule(name), "weight", _Bias())


def _replaced(model, name):
    class Other(nn.Linear):
        pass

    own = model.get_submodule(name)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, Other(own.in_features, own.out_features, bias=False))


def _patched(model, name):
    model.get_submodule(name).forward = lambda states: states


def _with_bias(model, name):
    own = model.get_submodule(name)
    own.bias = nn.Parameter(torch.ones(own.out_features))


LINEAR = ["decoder.block.1.layer.1.EncDecAttention.k", "encoder.block.0.layer.1.DenseReluDense.wo", "lm_head"]


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("change", [_hook, _pre_hook, _parametrized, _replaced, _patched, _with_bias])
def test_what_cannot_be_read_is_refused_by_name(change, name):
    model = tiny_model("t5 v1.1")
    model.generate(**INPUTS, max_new_tokens=2, exit_policy=FULL_DEPTH)  # nothing packed before may be used
    change(model, name)
    with pytest.raises(ValueError, match=rf"cannot read module '{name}"):
        model.generate(**INPUTS, max_new_tokens=2, exit_policy=FULL_DEPTH)


@pytest.mark.parametrize("change", [_hook, _pre_hook, _patched])
@pytest.mark.parametrize("name", ["", "decoder", "decoder.block.2", "decoder.final_layer_norm", "shared"])
def test_hooks_anywhere_are_refused(change, name):
    model = tiny_model()
    change(model, name)
    with pytest.raises(ValueError, match=f"cannot read module '{name}"):
        model.generate(**INPUTS, max_new_tokens=2, exit_policy=FULL_DEPTH)


def test_quantized_and_offloaded_models_are_refused():
    quantized = torch.ao.quantization.quantize_dynamic(tiny_model("t5 v1.1"), {nn.Linear}, dtype=torch.qint8)
    offloaded = accelerate.cpu_offload(tiny_model(), execution_device="cpu")
    for model in (quantized, offloaded):
        with pytest.raises(ValueError, match="cannot read module"):
            model.generate(**INPUTS, max_new_tokens=2, exit_policy=FULL_DEPTH)


def test_writing_through_data_is_noticed_where_whole_tensors_change():
    model = tiny_model()
    before = model.generate(**INPUTS, max_new_tokens=8, exit_policy=FULL_DEPTH)
    for parameter in model.parameters():
        parameter.data.mul_(-1.3)
    after = model.generate(**INPUTS, max_new_tokens=8, exit_policy=FULL_DEPTH)
    assert torch.equal(after, model.generate(**INPUTS, max_new_tokens=8))
    assert not torch.equal(after, before)


def test_an_engine_is_kept_while_weights_stay():
    model = MODELS["t5"]
    first = engine_for(model, FULL_DEPTH, "float32")
    assert engine_for(model, FULL_DEPTH, "float32").engine.kernels is first.engine.kernels
