"""What `decode_speed.py` times: functions that decode one batch, encoder included."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from early_exit import ExitPolicy
from models.encoder import packed_encoder
from models.shapes import shape_config
from models.t5 import EarlyExitT5

VOCABULARY = 32128
SCHEDULES = ("full", "1/2", "1/3", "1/4", "ragged")


@dataclass(frozen=True)
class System:
    """generate, ctranslate2, engine or its encoder alone, in a precision; schedule: where tokens leave."""

    name: str
    precision: str = "float32"
    schedule: str = "full"

    @property
    def process(self) -> str:
        """Name of the process that it runs in: torch's systems share one, CTranslate2 has one a precision."""
        return f"ctranslate2 {self.precision}" if self.name == "ctranslate2" else "torch"

    def __str__(self) -> str:
        depth = "" if self.schedule == "full" else f", {self.schedule} of the depth"
        return f"{self.name} {self.precision}{depth}"


@cache
def random_model(shape: str) -> EarlyExitT5:
    """A model with random weights that never ends a text."""
    torch.manual_seed(0)
    model = EarlyExitT5(shape_config(shape, VOCABULARY)).eval()
    model.generation_config.eos_token_id = None
    return model


def decoder(
    system: System, shape: str, source: Tensor, new_tokens: int, threads: int
) -> Callable[[], object]:
    """A call that decodes `source` [batch, length] and gives the tokens. threads: CTranslate2's; torch's are
    what torch is set to."""
    if system.name == "ctranslate2":
        return _ctranslate2(system, shape, source, new_tokens, threads)
    model = random_model(shape)
    if system.name == "encoder":
        encoder = packed_encoder(model, system.precision)
        return torch.no_grad()(lambda: encoder(input_ids=source))
    options = {"input_ids": source, "max_new_tokens": new_tokens}
    if system.name == "engine":
        options["exit_policy"] = policy(system.schedule, model.num_exits, len(source), new_tokens)
        options["engine_precision"] = system.precision
    return lambda: model.generate(**options)


def policy(schedule: str, num_layers: int, rows: int, new_tokens: int) -> ExitPolicy:
    """full; 1/n: all tokens leave at that share of the layers, rounded to whole ones and at least 1; ragged:
    each token at a layer of its own, drawn with mean L/3."""
    if schedule == "full":
        return ExitPolicy()
    if schedule != "ragged":
        return ExitPolicy(static_layer=max(1, round(num_layers / int(schedule[2:]))))
    return ExitPolicy(static_layer=ragged_layers(num_layers, rows, new_tokens))


def ragged_layers(num_layers: int, rows: int, new_tokens: int) -> Tensor:
    """[rows, new_tokens] layers: geometric from 1 on, cut at L, with a mean of L/3."""
    layers = torch.arange(1, num_layers + 1)
    low, high = 0.01, 0.999
    for _ in range(60):  # the mean falls as the share that leaves at each layer rises
        share = (low + high) / 2
        weights = (1 - share) ** (layers - 1.0)
        mean = (weights * layers).sum() / weights.sum()
        low, high = (share, high) if mean > num_layers / 3 else (low, share)
    drawn = torch.multinomial(
        weights, rows * new_tokens, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    return (drawn + 1).view(rows, new_tokens)


def _ctranslate2(
    system: System, shape: str, source: Tensor, new_tokens: int, threads: int
) -> Callable[[], object]:
    random = _random_translator(shape, system.precision, threads)
    tokens = named_tokens(source.tolist())
    lengths = {"min_decoding_length": new_tokens, "max_decoding_length": new_tokens}
    return lambda: random.translate_batch(tokens, beam_size=1, **lengths)


@cache
def _random_translator(shape: str, precision: str, threads: int):
    return translator(random_model(shape), precision, threads)


def named_tokens(rows: list[list[int]]) -> list[list[str]]:
    """Token numbers by the names that `translator` gives them."""
    return [[f"<{token}>" for token in row] for row in rows]


def translator(model: EarlyExitT5, precision: str, threads: int):
    """CTranslate2 with a model's weights and a made-up vocabulary."""
    import ctranslate2
    from ctranslate2.converters.converter import Converter
    from ctranslate2.converters.transformers import T5Loader

    class Vocabulary:
        pad_token, eos_token, unk_token = "<0>", "<1>", "<2>"

        def get_vocab(self) -> dict[str, int]:
            return {f"<{token}>": token for token in range(model.config.vocab_size)}

        def convert_ids_to_tokens(self, token: int) -> str:
            return f"<{token}>"

    class FromMemory(Converter):
        def _load(self):
            return T5Loader()(model, Vocabulary())

    with tempfile.TemporaryDirectory() as folder:
        FromMemory().convert(folder, quantization=precision, force=True)
        return ctranslate2.Translator(
            folder, device="cpu", compute_type=precision, inter_threads=1, intra_threads=threads
        )
