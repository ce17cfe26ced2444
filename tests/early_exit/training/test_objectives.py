"""Every objective against a loop over tokens and exits in float64: its value and its gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit.training import exit_losses, hidden_states
from early_exit.training.curricula import CURRICULA
from early_exit.training.hidden_states import spread_teachers
from early_exit.training.objectives import OBJECTIVES, Objective, objective_loss


def token_cross_entropy(head, state, label):
    return -(head @ state).log_softmax(0)[label]


def token_divergence(head, full, state, temperature):
    """τ²·Σ p·log(p / q) with p from full depth, which gets no gradient."""
    p = ((head @ full).detach() / temperature).softmax(0)
    q = (head @ state / temperature).softmax(0)
    return temperature**2 * sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True))


def squared(teacher, student):
    return ((teacher - student) ** 2).mean()


def naive_pairs(name, layers, shallow, distance):
    """(student, teacher), from 1. distance: of a teacher and a student, a number."""
    if name.endswith("last"):
        return [(shallow, layers)]
    teachers = [next(t for t in range(1, 99) if t * shallow >= j * layers) for j in range(1, shallow + 1)]
    if name.endswith("unif"):
        return list(zip(range(1, shallow + 1), teachers, strict=True))
    pairs, free = [], list(range(1, shallow + 1))
    for teacher in sorted(teachers, reverse=True):
        if free:
            student = min(free, key=lambda layer: distance(teacher, layer))
            pairs.append((student, teacher))
            free = [layer for layer in free if layer < student]
    return pairs


def naive_loss(objective, inputs, head, labels, scale, transform):
    layers, name, total = len(inputs), objective.name, 0.0
    kept = [place for place, label in enumerate(labels.tolist()) if label != -100]
    calm = [2 * layer / (layers * (layers + 1)) for layer in range(1, layers + 1)]
    for place in kept:
        entropy = [token_cross_entropy(head, state[place], labels[place]) for state in inputs]
        if name == "ce":
            total += sum(entropy) / layers
        elif name == "last_ce":
            total += entropy[-1]
        elif name == "layerskip_ce":
            weights = [objective.scale * sum(range(1, layer + 1)) for layer in range(1, layers)]
            weights.append(layers + objective.scale * sum(range(1, layers)))
            total += sum(w * each for w, each in zip(weights, entropy, strict=True)) / sum(weights)
        elif name == "weighted_ce":
            total += sum(weight * each for weight, each in zip(calm, entropy, strict=True))
        elif name == "kd_logits":
            total += calm[-1] * entropy[-1]
            for layer in range(layers - 1):
                kl = token_divergence(head, inputs[-1][place], inputs[layer][place], objective.temperature)
                total += calm[layer] * ((1 - objective.alpha) * entropy[layer] + objective.alpha * kl)
        else:
            shallow = objective.shallow_layer
            total += (shallow * entropy[shallow - 1] + layers * entropy[-1]) / (shallow + layers)
    if name.startswith("shallowdeep_kd"):
        teachers = [[state[place].detach() / scale for place in kept] for state in inputs]
        students = [
            [transform(state[place] / scale) for place in kept] for state in inputs[: objective.shallow_layer]
        ]

        def distance(teacher, student):
            pairs = zip(teachers[teacher - 1], students[student - 1], strict=True)
            return sum(squared(each, other) for each, other in pairs) if kept else torch.zeros(())

        pairs = naive_pairs(name, layers, objective.shallow_layer, distance)
        total += objective.alpha * sum(distance(t, s) for s, t in pairs) / len(pairs)
    return total


@pytest.mark.parametrize("name", OBJECTIVES)
@given(
    layers=st.integers(2, 5),
    shallow=st.floats(0, 1),
    tokens=st.integers(1, 4),
    masked=st.floats(0, 0.6),
    chunk=st.integers(1, 30),
    alpha=st.sampled_from([0.0, 0.3, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    transformed=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_loss_and_gradients_equal_the_naive_ones(
    name, layers, shallow, tokens, masked, chunk, alpha, temperature, transformed, seed
):
    torch.manual_seed(seed)
    inputs = [(2 * torch.randn(tokens, 3, dtype=torch.float64)).requires_grad_() for _ in range(layers)]
    head = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(6, (tokens,))
    labels[torch.rand(tokens) < masked] = -100
    linear = torch.nn.Linear(3, 3).double()
    transform = linear if transformed else torch.nn.Identity()
    place = 1 + int(shallow * (layers - 2))
    objective = Objective(name, shallow_layer=place, alpha=alpha, temperature=temperature, scale=1 + alpha)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exit_losses, "_CHUNK_ELEMENTS", chunk)
        loss, _ = objective_loss(objective, inputs, head, labels, 0.4, transform if transformed else None)
    expected = naive_loss(objective, inputs, head, labels, 0.4, transform) + 0 * head.sum()
    torch.testing.assert_close(loss, expected.to(loss.dtype))
    wanted = [head, *inputs, *(linear.parameters() if transformed else ())]
    factor = 0.37
    gradients = torch.autograd.grad(factor * loss, wanted, allow_unused=True, materialize_grads=True)
    naive = torch.autograd.grad(factor * expected, wanted, allow_unused=True, materialize_grads=True)
    for gradient, other in zip(gradients, naive, strict=True):
        torch.testing.assert_close(gradient, other)


def test_full_depth_is_not_moved_by_what_it_teaches():
    states = [torch.randn(5, 4, requires_grad=True) for _ in range(3)]
    head, labels = torch.randn(9, 4), torch.randint(9, (5,))
    gradients = []
    for alpha in (0.0, 1.0):
        loss, _ = objective_loss(Objective("kd_logits", alpha=alpha), states, head, labels)
        gradients.append(torch.autograd.grad(loss, states))
    torch.testing.assert_close(gradients[0][-1], gradients[1][-1])
    assert not torch.allclose(gradients[0][0], gradients[1][0])


def test_an_exit_that_predicts_as_full_depth_has_nothing_to_learn_from_it():
    state = torch.randn(5, 4)
    states = [state.clone().requires_grad_(), state]
    loss, _ = objective_loss(
        Objective("kd_logits", alpha=1.0, temperature=2.0),
        states,
        torch.randn(9, 4),
        torch.randint(9, (5,)),
    )
    assert torch.autograd.grad(loss, states[0])[0].abs().max() < 1e-6


def test_teachers_are_those_of_free():
    assert spread_teachers(6, 24) == [4, 8, 12, 16, 20, 24]
    assert spread_teachers(12, 24) == list(range(2, 25, 2))
    assert spread_teachers(8, 24) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert spread_teachers(4, 24) == [6, 12, 18, 24]
    assert spread_teachers(3, 12) == [4, 8, 12]


@given(layers=st.integers(2, 40), shallow=st.integers(1, 39))
def test_teachers_rise_to_full_depth_and_are_never_shallower_than_who_learns(layers, shallow):
    shallow = min(shallow, layers - 1)
    teachers = spread_teachers(shallow, layers)
    assert teachers == sorted(set(teachers))
    assert teachers[-1] == layers
    assert all(teacher >= student for student, teacher in enumerate(teachers, start=1))


@given(layers=st.integers(2, 12), shallow=st.integers(1, 11), seed=st.integers(0, 1000))
def test_dynamic_matches_do_not_cross(layers, shallow, seed):
    torch.manual_seed(seed)
    shallow = min(shallow, layers - 1)
    states = [torch.randn(3, 4) for _ in range(layers)]
    pairs = hidden_states.dynamic(states, states[:shallow])
    students, teachers = zip(*pairs, strict=True)
    assert list(students) == sorted(set(students), reverse=True)
    assert list(teachers) == sorted(set(teachers), reverse=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "wce"}, "unknown objective 'wce'; known: weighted_ce, ce"),
        ({"name": "shallowdeep_ce"}, "needs a shallow layer"),
        ({"name": "kd_logits", "alpha": 1.1}, r"alpha 1.1 is outside \[0, 1\]"),
        ({"name": "shallowdeep_kd_last", "shallow_layer": 1, "alpha": -1}, r"outside \[0, inf\]"),
        ({"name": "kd_logits", "temperature": 0}, "temperature 0 is not above 0"),
        ({"name": "kd_logits", "temperature": float("nan")}, "temperature nan"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**settings)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("shallowdeep")])
@given(layers=st.integers(1, 9), data=st.data())
def test_layers_that_count_share_the_weight_of_all(name, layers, data):
    counted = data.draw(st.sets(st.integers(1, max(1, layers - 1))).map(sorted).map(tuple))
    every, some = (Objective(name, counted=which).terms(layers) for which in (None, counted))
    whole, part = (
        [sum(pair) for pair in zip(terms.labels, terms.full_depth or [0] * layers, strict=True)]
        for terms in (every, some)
    )
    assert sum(part) == pytest.approx(sum(whole))
    assert {layer for layer, weight in enumerate(part, start=1) if weight} <= {*counted, layers}
    ratios = {round(own / all, 9) for own, all in zip(part, whole, strict=True) if own}
    assert len(ratios) <= 1


@pytest.mark.parametrize("steps", [1, 10, 60, 1000])
@pytest.mark.parametrize("layers", [1, 2, 6, 24])
def test_curricula(steps, layers):
    turns = [CURRICULA["rotational"](step, steps, layers) for step in range(3 * (layers - 1))]
    assert turns == [(layer,) for layer in range(1, layers)] * 3
    opened = [CURRICULA["gradual"](step, steps, layers) for step in range(steps + 1)]
    assert all(set(one) <= set(other) for one, other in pairwise(opened))
    assert all(max(each, default=0) == layers - 1 for each in opened)
    assert opened[-(-steps // 2)] == tuple(range(1, layers))
    if layers == 6 and steps == 60:  # one more every five steps
        assert [len(each) for each in opened[:26:5]] == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize("shallow", [0, 4, -1])
def test_the_shallow_layer_is_below_full_depth(shallow):
    with pytest.raises(ValueError, match=f"shallow layer {shallow} is outside 1 to 3"):
        Objective("shallowdeep_ce", shallow_layer=shallow).terms(4)


def test_unfitting_distillation_is_named():
    states, head = [torch.zeros(1, 2)] * 2, torch.zeros(3, 2)
    with pytest.raises(ValueError, match="learns from itself with weight 1, allowed: 0"):
        exit_losses.joint_cross_entropy(states, head, torch.zeros(1, dtype=torch.long), [1, 1], [1, 1])
