"""What the speed benchmarks time: functions that decode one batch of random prompts with random weights."""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from benchmarks import ctranslate2_peer, onnx_peer
from benchmarks.bandwidth import measured_bandwidth
from benchmarks.workers import process_of
from early_exit import ExitPolicy
from early_exit.decoding.engine import Prompt
from early_exit.decoding.greedy import GreedyChoice
from early_exit.models.engines import engine_for, precision_of
from early_exit.models.shapes import shape_config
from early_exit.models.t5 import EarlyExitT5

VOCABULARY = 32128
KERNELS = ("native", "torch")
STATIC = ("1/3", "1/4", "1/6")


class Setting(NamedTuple):
    """source, new_tokens: lengths; seed: of prompts and of drawn layers; device: of torch's systems."""

    shape: str
    batch: int
    source: int
    new_tokens: int
    seed: int
    device: str = "cpu"


@dataclass(frozen=True)
class System:
    """What is timed, in a precision.

    name: generate; generate compiled (transformers' own T5 with a static cache, whose step it compiles);
    ctranslate2; onnxruntime; engine (`generate` with an exit policy, encoder included); decoder (the engine
    without the encoder); encoder (the engine's); bandwidth (reading a large tensor).
    schedule: where tokens leave, see `policy`; in the decoder alone ragged rows get out of step, where
    that is faster, but for "ragged in step", as `generate` decodes. settings: environment variables of its
    process.
    """

    name: str
    precision: str = "float32"
    schedule: str = "full"
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def process(self) -> str:
        """Name of the process that it runs in."""
        return process_of(self)

    def __str__(self) -> str:
        depth = "" if self.schedule == "full" else f", {self.schedule}"
        settings = "".join(f", {name}={value}" for name, value in self.settings)
        return f"{self.name} {self.precision}{depth}{settings}"


@cache
def random_model(shape: str) -> EarlyExitT5:
    """A model with random weights that never ends a text.

    As T5 draws weights, a text is one token again and again, whatever the layers compute, and wrong
    arithmetic does not show. So layers add more to the embeddings, positions count for more, and feed-forward
    layers lose the part that is the same for all tokens. Nothing of that changes the time.
    """
    torch.manual_seed(0)
    model = EarlyExitT5(shape_config(shape, VOCABULARY)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("relative_attention_bias.weight"):
            weight.data *= 60
        elif name.endswith((".o.weight", ".wo.weight")):  # into the residual stream
            weight.data *= 20
            if ".wo." in name:
                weight.data -= weight.data.mean(dim=1, keepdim=True)
    model.generation_config.eos_token_id = None
    return model


def choose_kernels(name: str | None) -> None:
    """The engine's arithmetic, in all processes that are started from now on; None: its own choice."""
    if name is not None:
        os.environ["EARLY_EXIT_KERNELS"] = name


def random_source(setting: Setting) -> Tensor:
    """[batch, source] tokens."""
    generator = torch.Generator().manual_seed(setting.seed)
    return torch.randint(3, VOCABULARY - 128, (setting.batch, setting.source), generator=generator)


def build(system: System, setting: tuple, threads: int) -> Callable[[], dict[str, Any]]:
    """For `Workers`. A call decodes a batch and gives `tokens` [rows][new tokens], where there are any; for
    the decoder `details` as well, for bandwidth `bytes_per_second`.

    threads: of the peers; torch's are what torch is set to.
    """
    setting = Setting(*setting)
    if system.name == "bandwidth":
        return lambda: {"bytes_per_second": measured_bandwidth()}
    model = random_model(setting.shape).to(setting.device)
    source = random_source(setting).to(setting.device)
    if system.name == "ctranslate2":
        return ctranslate2_peer.decoder(model, system.precision, source, setting.new_tokens, threads)
    if system.name == "onnxruntime":
        return onnx_peer.decoder(model, system.precision, source, setting.new_tokens, threads)
    if system.name == "encoder":
        encoder = engine_for(model, ExitPolicy(), precision_of(model, system.precision)).encoder
        return partial(_encode, encoder, source)
    if system.name == "decoder":
        return _decoder_alone(system, model, source, setting)
    options = {"input_ids": source, "max_new_tokens": setting.new_tokens, "exit_policy": None}
    if system.name == "generate compiled":
        return _compiled(model, source, setting.new_tokens)
    if system.name == "engine":
        options |= {
            "exit_policy": policy(system.schedule, model.num_exits, setting),
            "engine_precision": system.precision,
        }
    return lambda: {"tokens": model.generate(**options)[:, 1:].tolist()}


def _compiled(model: EarlyExitT5, source: Tensor, new_tokens: int) -> Callable[[], dict[str, Any]]:
    # transformers' static cache needs as many layers in the decoder as in the encoder.
    plain = T5ForConditionalGeneration(model.config).to(source.device).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    plain.generation_config = copy.deepcopy(model.generation_config)
    options = {"input_ids": source, "max_new_tokens": new_tokens, "cache_implementation": "static"}
    return lambda: {"tokens": plain.generate(**options)[:, 1:].tolist()}


@torch.no_grad()
def _encode(encoder: torch.nn.Module, source: Tensor) -> dict[str, Any]:
    states = encoder(input_ids=source).last_hidden_state
    if states.is_cuda:
        torch.cuda.synchronize()
    return {}


@torch.no_grad()
def _decoder_alone(system: System, model: EarlyExitT5, source: Tensor, setting: Setting) -> Callable:
    exits = policy(system.schedule, model.num_exits, setting)
    held = engine_for(model, exits, precision_of(model, system.precision))
    start, endless = np.zeros(1, dtype=np.int64), GreedyChoice(np.zeros(0, dtype=np.int64))
    prompts = [Prompt(states, start) for states in held.encoder(input_ids=source).last_hidden_state.float()]
    enough = 1 if system.schedule.endswith("in step") else max(1, setting.batch // 2)
    kernels = held.engine.kernels
    details = {
        "kernels": type(kernels).__name__,
        "computes_in": kernels.precision,
        "cache_bytes": kernels.dtype.itemsize,
    }

    def call() -> dict[str, Any]:
        decoded = held.engine.decode_batch(prompts, exits, endless, setting.new_tokens, enough=enough)
        return {"tokens": decoded.tokens.tolist(), "details": details}

    return call


def static_schedules(num_layers: int) -> list[str]:
    """Those of `STATIC` that leave at different layers."""
    layers = {static_layer(schedule, num_layers): schedule for schedule in reversed(STATIC)}
    return [schedule for schedule in STATIC if schedule in layers.values()]


def static_layer(schedule: str, num_layers: int) -> int:
    """1/n → that share of the layers, rounded to whole ones and at least 1."""
    return max(1, round(num_layers / int(schedule[2:])))


def policy(schedule: str, num_layers: int, setting: Setting) -> ExitPolicy:
    """full; 1/n: all tokens leave at that share of the layers; ragged: each token at a layer of its own,
    drawn with mean L/3."""
    if schedule == "full":
        return ExitPolicy()
    if schedule.startswith("ragged"):
        layers = ragged_layers(num_layers, setting.batch, setting.new_tokens, setting.seed)
        return ExitPolicy(static_layer=layers)
    return ExitPolicy(static_layer=static_layer(schedule, num_layers))


def ragged_layers(num_layers: int, rows: int, new_tokens: int, seed: int) -> Tensor:
    """[rows, new_tokens] layers: geometric from 1 on, cut at L, with a mean of L/3."""
    layers = torch.arange(1, num_layers + 1)
    low, high = 0.01, 0.999
    for _ in range(60):  # the mean falls as the share that leaves at each layer rises
        share = (low + high) / 2
        weights = (1 - share) ** (layers - 1.0)
        mean = (weights * layers).sum() / weights.sum()
        low, high = (share, high) if mean > num_layers / 3 else (low, share)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weights, rows * new_tokens, replacement=True, generator=generator)
    return (drawn + 1).view(rows, new_tokens)
