import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from early_exit.training import exit_losses as losses
from early_exit.training.exit_losses import joint_cross_entropy
from early_exit.training.weightings import LAYER_WEIGHTINGS, layer_weights


def naive_joint_loss(states, head, labels, weights):
    """All logits at once, by torch's own cross-entropy."""
    each = [cross_entropy(state @ head.T, labels, reduction="sum", ignore_index=-100) for state in states]
    return sum(weight * loss for weight, loss in zip(weights, each, strict=True)), torch.stack(each)


@given(
    exits=st.integers(1, 4),
    tokens=st.integers(1, 12),
    vocabulary=st.integers(2, 9),
    chunk=st.integers(1, 40),
    masked=st.floats(0, 1),
    scale=st.sampled_from([0.1, 1.0, 50.0]),
    seed=st.integers(0, 10**6),
)
def test_loss_and_gradients_equal_the_naive_ones(exits, tokens, vocabulary, chunk, masked, scale, seed):
    torch.manual_seed(seed)
    states = [(scale * torch.randn(tokens, 5, dtype=torch.float64)).requires_grad_() for _ in range(exits)]
    head = torch.randn(vocabulary, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(vocabulary, (tokens,))
    labels[torch.rand(tokens) < masked] = -100
    weights = layer_weights("weighted_ce", exits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
        loss, exit_losses = joint_cross_entropy(states, head, labels, weights)
    expected, expected_each = naive_joint_loss(states, head, labels, weights)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(exit_losses, expected_each.detach())

    factor = 0.37  # the gradient that arrives is not always 1
    gradients = torch.autograd.grad(factor * loss, [head, *states])
    expected_gradients = torch.autograd.grad(factor * expected, [head, *states])
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_exits_without_weight_cost_nothing_and_report_nothing():
    states = [torch.randn(6, 5, requires_grad=True) for _ in range(3)]
    head, labels = torch.randn(7, 5, requires_grad=True), torch.randint(7, (6,))
    loss, exit_losses = joint_cross_entropy(states, head, labels, layer_weights("last_ce", 3))
    loss.backward()
    assert exit_losses[:2].isnan().all()
    torch.testing.assert_close(loss, cross_entropy(states[-1] @ head.T, labels, reduction="sum"))
    assert states[0].grad is None
    assert states[-1].grad is not None


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, and the operations."""

    def __init__(self):
        super().__init__()
        self.elements, self.operations = 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations.add(function.name().split(".")[0])
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_operation_makes_more_than_a_chunk_of_logits(monkeypatch):
    tokens, vocabulary, width, chunk = 64, 512, 4, 8 * 512
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
    states = [torch.randn(tokens, width, requires_grad=True) for _ in range(6)]
    head = torch.randn(vocabulary, width, requires_grad=True)
    with LargestTensor() as largest:
        loss, _ = joint_cross_entropy(states, head, torch.randint(vocabulary, (tokens,)), [1 / 6] * 6)
        loss.backward()
    assert "aten::exp_" in largest.operations
    assert largest.elements <= chunk < tokens * vocabulary


def test_no_gradient_is_formed_where_none_is_wanted():
    states, head = [torch.randn(6, 5, requires_grad=True)], torch.randn(70, 5, requires_grad=True)
    with torch.no_grad(), LargestTensor() as largest:
        loss, _ = joint_cross_entropy(states, head, torch.randint(7, (2,)).repeat(3), [1.0])
    assert not loss.requires_grad
    assert "aten::exp_" not in largest.operations


def test_autocast_stays_near_float32():
    states = [torch.randn(40, 16, requires_grad=True) for _ in range(3)]
    head, labels = torch.randn(50, 16, requires_grad=True), torch.randint(50, (40,))
    weights = layer_weights("ce", 3)
    exact, _ = joint_cross_entropy(states, head, labels, weights)
    exact_gradient = torch.autograd.grad(exact, head)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = joint_cross_entropy(states, head, labels, weights)
    gradient = torch.autograd.grad(loss, head)[0]
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)
    assert (gradient - exact_gradient).norm() < 0.03 * exact_gradient.norm()


@pytest.mark.parametrize("name", LAYER_WEIGHTINGS)
@given(layers=st.integers(1, 48))
def test_weights_sum_to_one_and_never_favour_a_shallower_exit(name, layers):
    weights = layer_weights(name, layers)
    assert len(weights) == layers
    assert sum(weights) == pytest.approx(1)
    assert weights == sorted(weights)


def test_weighted_ce_is_calms():
    assert layer_weights("weighted_ce", 3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_unknown_weighting_and_mismatch_are_named():
    with pytest.raises(ValueError, match=r"'wce'.*weighted_ce, ce"):
        layer_weights("wce", 3)
    with pytest.raises(ValueError, match="1 states but 2 weights"):
        joint_cross_entropy([torch.zeros(1, 2)], torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), [1, 2])


def test_distillation_keeps_to_a_chunk_of_logits_too(monkeypatch):
    tokens, vocabulary, width, chunk = 64, 512, 4, 8 * 512
    monkeypatch.setattr(losses, "_CHUNK_ELEMENTS", chunk)
    states = [torch.randn(tokens, width, requires_grad=True) for _ in range(3)]
    head = torch.randn(vocabulary, width, requires_grad=True)
    labels = torch.randint(vocabulary, (tokens,))
    with LargestTensor() as largest:
        loss, _ = joint_cross_entropy(states, head, labels, [0.0, 0.0, 0.5], [0.2, 0.3, 0.0], 2.0)
        loss.backward()
    assert largest.elements <= chunk < tokens * vocabulary
