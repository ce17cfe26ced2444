"""CTranslate2 with a model's weights, and which of its settings to try."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

_BACKENDS = ({"CT2_USE_MKL": "0"}, {"CT2_USE_MKL": "1"})
_LAST_RESORT = {"CT2_FORCE_CPU_ISA": "GENERIC"}


def candidates() -> list[tuple[tuple[str, str], ...]]:
    """Environment variables that may make it faster, or right: the best backend depends on the processor, and
    on some its int8 products are wrong unless another instruction set is forced."""
    result = list(_BACKENDS)
    if "avx512" in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        result += [{**backend, "CT2_FORCE_CPU_ISA": "AVX2"} for backend in _BACKENDS]
    result.append(_LAST_RESORT)
    return [tuple(settings.items()) for settings in result]


def is_last_resort(settings: tuple[tuple[str, str], ...]) -> bool:
    """Whether these are slow, for processors on which all others are wrong."""
    return dict(settings) == _LAST_RESORT


def decoder(
    model, precision: str, source: Tensor, new_tokens: int, threads: int
) -> Callable[[], dict[str, Any]]:
    """A call that decodes `source` [batch, length] greedily."""
    translate = translator(model, precision, threads).translate_batch
    tokens = named_tokens(source.tolist())
    lengths = {"min_decoding_length": new_tokens, "max_decoding_length": new_tokens}

    def call() -> dict[str, Any]:
        texts = translate(tokens, beam_size=1, **lengths)
        return {"tokens": [numbered_tokens(text.hypotheses[0]) for text in texts]}

    return call


def named_tokens(rows: list[list[int]]) -> list[list[str]]:
    """Token numbers by the names that `translator` gives them."""
    return [[f"<{token}>" for token in row] for row in rows]


def numbered_tokens(names: list[str]) -> list[int]:
    """The other way round, for one text."""
    return [int(name[1:-1]) for name in names]


@cache
def translator(model, precision: str, threads: int):
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
