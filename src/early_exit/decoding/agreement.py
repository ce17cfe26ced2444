"""What an exit says at every position of a finished text, beside what full depth says there."""

from dataclasses import replace

import numpy as np
import torch

from early_exit.decoding.engine import Engine, Prompt
from early_exit.decoding.exits import ConfidenceExits
from early_exit.decoding.rows import Rows
from early_exit.kernels.interface import Items
from early_exit.policy import ExitPolicy


@torch.no_grad()
def exit_agreement(
    engine: Engine, prompt: Prompt, tokens: list[int], policy: ExitPolicy
) -> tuple[np.ndarray, np.ndarray]:
    """Confidences [n] of the policy's one exit, and whether its likeliest token is full depth's, [n] float64
    of 0 and 1, at the positions of a text's n new tokens: by the model's own logits, all at once, each
    layer run with the full model's keys and values.

    policy: with a measure and min_layer = max_layer. tokens: those that were decoded for the prompt.
    """
    whole = np.concatenate([prompt.prefix, np.array(tokens[:-1], dtype=np.int64)])
    layer = policy.max_layer or engine.num_layers
    rows = Rows(1, engine.kernels, engine.num_layers)
    rows.admit(0, 0, prompt.source, id(prompt.source), whole)
    run = engine.kernels.run
    items = Items(np.zeros(len(whole), dtype=np.int64), np.arange(len(whole)))
    before = run(items, engine.kernels.embed(whole), 0, layer - 1, rows.cache, rows.sources)
    states = run(items, before, layer - 1, layer, rows.cache, rows.sources)
    head = engine.head_for(policy, 1)
    everyone = replace(policy, threshold=0.0, position_temperature=None, verify=None)
    exits = engine.way_of_decoding(rows, head, everyone, len(tokens), 1)
    assert isinstance(exits, ConfidenceExits)  # the policy has a measure
    _, confidences, _ = exits.decide(layer, items, states, before)  # NaN where it is 0: not above 0
    own = head.early(head.adapted(layer, states)).tokens()
    deepest = run(items, states, layer, engine.num_layers, rows.cache, rows.sources)
    agrees = own == head.unasked(deepest).tokens()
    new = slice(len(prompt.prefix) - 1, None)
    return np.nan_to_num(confidences[new]).astype(np.float64), agrees[new].astype(np.float64)
