"""The recipes of docs/extending.md run, and do what they say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from early_exit import ExitPolicy, Objective, load_model, objective_loss
from early_exit.bounds import BOUNDS, p_value
from early_exit.confidence import MEASURES
from early_exit.models.generation import reference_generate
from early_exit.models.t5 import MODEL_CLASSES
from early_exit.training.objectives import OBJECTIVES
from tests.tiny import MODELS, source_batch

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture
def recipe():
    """Executes a section's Python, and gives what it defines. The registries are as before at the end."""
    before = [(registry, dict(registry)) for registry in (MEASURES, OBJECTIVES, BOUNDS, MODEL_CLASSES)]

    def run(heading: str) -> dict:
        section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
        scope: dict = {"__name__": "recipe"}
        exec(re.search(r"```python\n(.*?)```", section, re.S)[1], scope)
        return scope

    yield run
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def test_a_measure(recipe):
    scope = recipe("A confidence measure")
    hidden, previous = torch.randn(2, 5, 8)
    for row, confidence in enumerate(scope["norm_stability"](hidden, previous).tolist()):
        one, other = (sum(float(x) ** 2 for x in state[row]) ** 0.5 for state in (hidden, previous))
        assert confidence == pytest.approx(min(one, other) / max(one, other))
    policy = ExitPolicy(measure="norm_stability", threshold=0.65)
    options = source_batch(3, 7) | {
        "exit_policy": policy,
        "max_new_tokens": 6,
        "return_dict_in_generate": True,
    }
    decoded = MODELS["t5"].generate(**options)
    expected = MODELS["t5"].generate(**options, custom_generate=reference_generate)
    assert torch.equal(decoded.sequences, expected.sequences)
    assert torch.equal(decoded.exit_layers, expected.exit_layers)
    assert len(decoded.exit_layers.unique()) > 1


def test_an_objective(recipe):
    recipe("A training objective")
    states, head = torch.randn(4, 10, 6), torch.randn(9, 6)
    labels = torch.randint(0, 9, (10,))
    loss, exit_losses = objective_loss(Objective("ends_only"), list(states), head, labels)
    naive = [torch.nn.functional.cross_entropy(state @ head.T, labels, reduction="sum") for state in states]
    assert float(loss) == pytest.approx(float(naive[0] + naive[-1]) / 2, rel=1e-5)
    assert float(exit_losses[0]) == pytest.approx(float(naive[0]), rel=1e-5)


def test_a_bound(recipe):
    recipe("A bound")
    generator = np.random.default_rng(0)
    draws = (generator.uniform(size=(2000, 60)) < 0.2).astype(float)  # whose mean is δ
    rejected = np.mean([p_value(losses, 0.2, "cantelli") <= 0.1 for losses in draws])
    assert rejected <= 0.1 + 2 * (0.1 * 0.9 / 2000) ** 0.5
    assert p_value(np.zeros(600), 0.2, "cantelli") < 0.05  # and it certifies


def test_a_family(recipe, tmp_path):
    scope = recipe("A model family")
    config = scope["PlainConfig"](**{**MODELS["t5"].config.to_dict(), "model_type": "plain-t5"})
    model = scope["EarlyExitPlain"](config).eval()
    model.load_state_dict(MODELS["t5"].state_dict(), strict=False)
    model.save_pretrained(tmp_path)
    AutoConfig.register("plain-t5", scope["PlainConfig"], exist_ok=True)
    loaded = load_model(str(tmp_path)).eval()
    assert type(loaded) is scope["EarlyExitPlain"]
    options = source_batch(2, 6) | {"exit_policy": ExitPolicy("softmax", 0.1), "max_new_tokens": 6}
    assert torch.equal(loaded.generate(**options), MODELS["t5"].generate(**options))
