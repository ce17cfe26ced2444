"""Shapes of T5 that can start from random weights, for `--model_shape` and for benchmarks.

Each names only what differs from transformers' T5Config, whose defaults are T5-small.
"""

from transformers import T5Config

SHAPES: dict[str, dict] = {
    # For tests: a run takes seconds.
    "tiny": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 1,
        "num_decoder_layers": 3,
        "num_heads": 2,
        "dropout_rate": 0.0,
    },
    # Learns the embedded corpus and E2E on two CPU cores in minutes. Few encoder layers, since reports
    # are short; many decoder layers, since these are what exits choose between.
    "small": {
        "d_model": 256,
        "d_ff": 768,
        "num_layers": 2,
        "num_decoder_layers": 6,
        "num_heads": 4,
        # A quarter of the step's time, and in one pass over the corpus there is nothing to overfit.
        "dropout_rate": 0.0,
    },
    # For Multi30k (benchmarks/multi30k.sh). As deep as T5-base's decoder, since layers are what exits save,
    # and narrow: "deep" for a GPU, "deep-small" for one core of a CPU.
    "deep": {
        "d_model": 256,
        "d_ff": 1024,
        "num_layers": 4,
        "num_decoder_layers": 12,
        "num_heads": 4,
    },
    "deep-small": {
        "d_model": 192,
        "d_ff": 512,
        "num_layers": 4,
        "num_decoder_layers": 12,
        "num_heads": 3,
        "dropout_rate": 0.0,
    },
    "t5-small": {},
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}


def shape_config(name: str, vocab_size: int, **overrides) -> T5Config:
    """The configuration of a shape. Raises ValueError with the known names for an unknown one."""
    if name not in SHAPES:
        raise ValueError(f"unknown model shape {name!r}; known: {', '.join(SHAPES)}")
    # T5 starts decoding from the padding token.
    fields = {"decoder_start_token_id": 0, **SHAPES[name], **overrides}
    return T5Config(vocab_size=vocab_size, **fields)
