"""Tiny random models of each family that tests share."""

import copy
from functools import cache

import torch
from transformers import LongT5Config, MT5Config, T5Config, UMT5Config

from early_exit.models.t5 import EarlyExitLongT5, EarlyExitMT5, EarlyExitT5, EarlyExitUMT5

HEADS = ("vanilla_classifier", "MLP", "transformer_MLP_64", "transformer_linear_7", "transformer_MLP_128")
_SIZES = {
    "vocab_size": 97,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 4,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
    "initializer_factor": 1.5,  # spreads the logits, so that random models do not repeat one token
}
FAMILIES = {
    "t5": lambda: EarlyExitT5(T5Config(**_SIZES)),
    "t5 v1.1": lambda: EarlyExitT5(
        T5Config(**_SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    # ByT5 is T5 v1.1 with a deep encoder.
    "byt5": lambda: EarlyExitT5(
        T5Config(**_SIZES | {"num_layers": 6}, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "mt5": lambda: EarlyExitMT5(MT5Config(**_SIZES, feed_forward_proj="gated-gelu")),
    "umt5": lambda: EarlyExitUMT5(UMT5Config(**_SIZES, feed_forward_proj="gated-gelu")),
    "longt5": lambda: EarlyExitLongT5(LongT5Config(**_SIZES, local_radius=3)),
    "longt5 global": lambda: EarlyExitLongT5(
        LongT5Config(
            **_SIZES,
            feed_forward_proj="gated-gelu",
            encoder_attention_type="transient-global",
            local_radius=3,
            global_block_size=2,
        )
    ),
}


def tiny_model(family: str = "t5", seed: int = 0):
    """A model of one's own, in eval mode, whose LM head is random, so that exits disagree."""
    model, random_state = _made(family, seed)
    torch.set_rng_state(random_state)
    return copy.deepcopy(model)  # a quarter of the time of making one


@cache
def _made(family: str, seed: int):
    """The model, and torch's random state behind it."""
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    # Position embeddings alone make random decoders periodic; noise on the norms varies the layers.
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    for number, name in enumerate(HEADS):
        heads = model.add_exit_heads(name, shared=number == 1)
        for head in heads.heads:
            head.output.weight.data *= 3  # spreads their confidences
        heads.agreed += torch.tensor([3, 4, 6])
        heads.seen += 9
    texts = torch.randint(1, 97, (8, 20), generator=torch.Generator().manual_seed(seed))
    model.rank_tokens(texts.tolist())
    return model, torch.get_rng_state()


def source_batch(rows: int, longest: int, seed: int = 0):
    """Padded source tokens and their mask, both [rows, longest]; lengths differ by row."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    lengths[0] = longest
    tokens = torch.randint(2, 97, (rows, longest), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).long()
    return {"input_ids": tokens * mask, "attention_mask": mask}


MODELS = {family: tiny_model(family) for family in FAMILIES}
# Of confidences. Where logits are not scaled they are some hundreds here, with an error to match.
TOLERANCES = {family: 1e-5 if family == "t5" else 1e-4 for family in FAMILIES}
