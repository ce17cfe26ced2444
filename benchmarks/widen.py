"""A trained small model with the cost of a larger one, without changing what it computes.

    python -m benchmarks.widen ../shared/checkpoints/e2e-small ../shared/data/e2e/validation.json save/wide

Every unit is there k times and the weights that read it are divided by k; feed-forward layers are filled up
with units that are never written, the encoder with layers that add nothing, and the vocabulary with tokens
whose logits stay far below the others'. The residual stream is smaller by √k than that, which its norms do
not see, so that embedding and LM head stay one matrix. So tokens, exits and confidences are the small
model's, and a decoder layer is at least as wide as T5-small's or T5-base's (k is the smallest that does).
Training these shapes from random weights would take days on two cores.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.records import pairs
from early_exit.models.exit_heads import ExitHeads, backbone_fingerprints
from early_exit.models.loading import load_model
from early_exit.models.shapes import shape_config
from early_exit.models.t5 import EarlyExitT5
from util.files import whole_folder_contents

_FILLER_LOGIT = -16.0


@torch.no_grad()
def widened(
    model: EarlyExitT5, states: Tensor, times: int, d_ff: int, encoder_layers: int, vocabulary: int
) -> EarlyExitT5:
    """The same function with `times` the width, and at least as many times the feed-forward width.

    model: T5 with relu. states: [n, d_model], what its LM head reads at exits; filler tokens get about the
    same low logit for all of them.
    """
    config = model.config
    fields = config.to_diff_dict() | {
        "d_model": times * config.d_model,
        "d_ff": d_ff,
        "num_heads": times * config.num_heads,
        "num_layers": encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "token_ranking": None,
        "vocab_size": vocabulary,
    }
    wide = EarlyExitT5(type(config)(**fields)).eval()
    constant = torch.linalg.lstsq(states.double(), torch.ones(len(states), 1, dtype=torch.double)).solution
    filler = (_FILLER_LOGIT * constant[:, 0]).float().expand(vocabulary - config.vocab_size, -1)
    old = model.state_dict() | {"shared.weight": torch.cat([model.shared.weight, filler])}
    for name, parameter in wide.named_parameters():
        if not name.startswith("exit_heads."):
            _widen(parameter, name, old.get(name), times)
    for name, heads in wide.exit_heads.items():
        _widen_heads(heads, model.exit_heads[name])
        wide.config.exit_heads[name] |= {"backbone": backbone_fingerprints(wide)}
    wide.generation_config = model.generation_config
    if model.token_ranking is not None:  # filler tokens come last
        wide.config.token_ranking = vocabulary
        wide.token_ranking = torch.cat([model.token_ranking, torch.arange(config.vocab_size, vocabulary)])
    return wide


def _widen(parameter: Tensor, name: str, old: Tensor | None, times: int) -> None:
    """Fills a parameter of the wide model from the small one's, which lacks those of further layers."""
    into_residual_stream = name.endswith(("o.weight", "wo.weight"))
    if old is None:  # an encoder layer more: whatever it reads, it adds nothing
        if into_residual_stream:
            parameter.zero_()
    elif name == "shared.weight":
        parameter.copy_(old.repeat(1, times) / math.sqrt(times))
    elif "layer_norm" in name:
        parameter.copy_(old.repeat(times))
    elif "relative_attention_bias" in name:
        parameter.copy_(old.repeat(1, times))
    else:
        repeated = (old / times).repeat(times, times)
        if into_residual_stream:
            repeated /= math.sqrt(times)
        parameter.zero_()
        parameter[: repeated.shape[0], : repeated.shape[1]] = repeated


def _widen_heads(wide: ExitHeads, small: ExitHeads) -> None:
    """Fills exit heads from the small model's. They read normed states, whose numbers are all repeated."""
    tensors = wide.state_dict()
    for name, old in small.state_dict().items():
        if name.endswith("weight"):
            rows, columns = (new // size for new, size in zip(tensors[name].shape, old.shape, strict=True))
            old = (old / columns).repeat(rows, columns)
        tensors[name].copy_(old)


@torch.no_grad()
def exit_inputs(model: EarlyExitT5, tokenizer, documents: list[str]) -> Tensor:
    """What the LM head reads at all exits while the model writes, [n, d_model]."""
    inputs = tokenizer(documents, return_tensors="pt", padding=True, truncation=True, max_length=128)
    texts = model.generate(**inputs, max_new_tokens=64, exit_policy=None)
    labels = texts[:, 1:].masked_fill(texts[:, 1:] == model.config.pad_token_id, -100)
    outputs = model(**inputs, labels=labels, output_hidden_states=True)
    states = torch.stack(outputs.decoder_hidden_states[1:-1])[:, labels != -100].flatten(0, 1)
    normed = model.decoder.final_layer_norm(states)
    last = outputs.decoder_hidden_states[-1][labels != -100]  # is normed
    return model.head_input(torch.cat([normed, last]))


def main() -> None:
    """Writes the wide model, with the small one's tokenizer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="JSON lines as headline.py reads them, for the filler tokens")
    parser.add_argument("output", type=Path)
    parser.add_argument("--prefix", default="summarize: ")
    parser.add_argument("--shape", choices=("t5-small", "t5-base"), default="t5-small")
    options = parser.parse_args()
    model, tokenizer = load_model(options.model).eval(), AutoTokenizer.from_pretrained(options.model)
    documents = [options.prefix + document for document, _ in pairs(str(options.data))[:100]]
    states = exit_inputs(model, tokenizer, documents)
    like = shape_config(options.shape, vocab_size=32128)
    times = math.ceil(like.d_model / model.config.d_model)
    d_ff = max(like.d_ff, times * model.config.d_ff)
    wide = widened(model, states, times, d_ff, like.num_layers, like.vocab_size)
    options.output.mkdir(parents=True, exist_ok=True)
    with whole_folder_contents(options.output) as scratch:
        wide.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    print(f"{options.output}: {sum(each.numel() for each in wide.parameters()) / 1e6:.1f} million parameters")


if __name__ == "__main__":
    main()
