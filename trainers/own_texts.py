"""Texts that a model writes for itself to learn from.

Sequence-level distillation (Kim & Rush 2016) with the model's own full depth as the teacher: what exits are
compared with is the full model's text, so that is what they learn.
"""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm
from transformers import Seq2SeqTrainingArguments

from early_exit import ExitPolicy
from early_exit.models.effective_generation import evaluation_options
from early_exit.models.engines import forget_engines
from early_exit.models.sources import Source
from early_exit.models.stream import decode_prompts

_AT_ONCE = 512  # texts a process writes before they are kept: what an interruption costs


def greedy_options(training: Seq2SeqTrainingArguments) -> dict:
    """What the texts are written with, as options of `generate`: greedily, whatever evaluation does."""
    return evaluation_options(training) | {"num_beams": 1, "do_sample": False}


def write_own_texts(
    model, sources: Sequence[Sequence[int]], training: Seq2SeqTrainingArguments
) -> Iterator[tuple[range, list[list[int]]]]:
    """The texts that full depth writes, in float32, for sources of tokens: portions in order, each as the
    numbers of its sources and, for each, the new tokens with the end token.

    Of several processes each writes its share, and all get all.
    """
    model.to(training.device).eval()
    options, world = greedy_options(training), training.world_size
    if world > 1:
        torch.distributed.barrier()  # all have read what there is before anything is added
    portion = _AT_ONCE * world
    silent = training.disable_tqdm or training.process_index > 0
    with tqdm(total=len(sources), desc="own texts", disable=silent) as progress:
        for first in range(0, len(sources), portion):
            numbers = range(first, min(first + portion, len(sources)))
            share = numbers[training.process_index :: world]
            own = [Source.of(torch.tensor(sources[number])) for number in share]
            rows = decode_prompts(model, ExitPolicy(), "float32", own, training.eval_batch_size, options).rows
            shares = [[row.tokens for row in rows]]
            if world > 1:
                shares = [None] * world
                torch.distributed.all_gather_object(shares, [row.tokens for row in rows])
            tokens = [shares[place % world][place // world] for place in range(len(numbers))]
            yield numbers, tokens
            progress.update(len(numbers))
    forget_engines(model)
