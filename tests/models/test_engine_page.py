"""The example of docs/engine.md, against the same exits by the reference loop."""

import re
from pathlib import Path

import numpy as np
import pytest

from early_exit import MEASURES, ExitPolicy, Prompt
from early_exit.confidence import Measure
from early_exit.models.engines import engine_for
from early_exit.models.generation import reference_generate
from early_exit.models.sources import Source, encode_all
from tests.tiny import MODELS, source_batch

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 9])
def test_the_page_s_way_of_decoding_does_what_it_says(monkeypatch, rows):
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)), names)
    model, inputs = MODELS["t5"], source_batch(9, longest=9)
    engine = names["PatientEngine"](engine_for(model, ExitPolicy(), "float32").engine.kernels)
    sources = list(map(Source.of, inputs["input_ids"], inputs["attention_mask"]))
    states = encode_all(model.encoder, sources, 4, model.device)

    def choose(numbers, lengths, scores):
        tokens = scores.tokens()
        return tokens, np.isin(tokens, [5, 6, 7])

    prompts = [Prompt(each, np.zeros(1, dtype=np.int64)) for each in states]
    decoded = sorted(engine.decode(prompts, ExitPolicy(), choose, 10, rows=rows), key=lambda row: row.prompt)

    agrees = lambda view: (view.logits().argmax(-1) == model.exit_logits(view.previous).argmax(-1)).float()  # noqa: E731
    monkeypatch.setitem(MEASURES, "as before", Measure(agrees, reads_lm_head=True))
    expected = model.generate(
        **inputs,
        max_new_tokens=10,
        eos_token_id=[5, 6, 7],
        exit_policy=ExitPolicy(measure="as before", threshold=0.5, min_layer=2),
        custom_generate=reference_generate,
        return_dict_in_generate=True,
    )
    for row, tokens, layers in zip(decoded, expected.sequences[:, 1:], expected.exit_layers, strict=True):
        length = len(row.tokens)
        assert row.tokens == tokens[:length].tolist()
        assert row.exit_layers == layers[:length].tolist()
        assert not layers[length:].any()
    assert {layer for row in decoded for layer in row.exit_layers} >= {2, 3, 4}
