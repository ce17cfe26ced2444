import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import linear
from early_exit.kernels.native.matrix import NativeMatrix, rounded_to_int8
from early_exit.linear import PRECISIONS, Linear, has_native, pack, usable_precision

needs_native = pytest.mark.skipif(not has_native("cpu"), reason="needs the compiled kernels")
sizes = {"rows": st.integers(1, 15), "inner": st.integers(1, 70), "outer": st.integers(1, 70)}


def numbers(rows: int, width: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def rows_of_different_size(rows: int, inner: int, outer: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs whose rows differ in size by up to a million, and a weight."""
    inputs = numbers(rows, inner, seed) * 10.0 ** torch.arange(rows).remainder(7)[:, None]
    return inputs, numbers(outer, inner, seed + 1)


@given(**sizes, seed=st.integers(0, 99))
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "make", [pack, lambda weight, _, relu=False: Linear(weight, relu)], ids=["pack", "torch"]
)
def test_float32_is_the_product(rows, inner, outer, seed, relu, make):
    inputs, weight = numbers(rows, inner, seed), numbers(outer, inner, seed + 1)
    residual = numbers(rows, outer, seed + 2)
    expected = inputs.double() @ weight.double().T
    product = make(weight, "float32", relu)
    assert product.width == outer
    after = expected.clamp(min=0) if relu else expected
    torch.testing.assert_close(product(inputs).double(), after, atol=1e-4, rtol=1e-5)
    if not relu:
        added = product.add(inputs, residual).double()
        torch.testing.assert_close(added, expected + residual.double(), atol=1e-4, rtol=1e-5)


@needs_native
@given(**sizes, seed=st.integers(0, 99))
def test_bfloat16_rounds_the_weights(rows, inner, outer, seed):
    inputs, weight = numbers(rows, inner, seed), numbers(outer, inner, seed + 1)
    expected = inputs.double() @ weight.bfloat16().double().T
    torch.testing.assert_close(pack(weight, "bfloat16")(inputs).double(), expected, atol=1e-4, rtol=1e-5)


@needs_native
@given(**sizes, seed=st.integers(0, 99))
def test_int8_is_the_product_with_rounded_weights(rows, inner, outer, seed):
    """Inputs are rounded too, but to thousands of levels."""
    inputs, weight = rows_of_different_size(rows, inner, outer, seed)
    expected = inputs.double() @ rounded_to_int8(weight).double().T
    error = (pack(weight, "int8")(inputs).double() - expected).norm(dim=1)
    assert (error <= 2e-4 * inputs.double().norm(dim=1) * weight.double().norm()).all()


@needs_native
@given(**sizes, seed=st.integers(0, 99), shift=st.sampled_from([-3.0, 0.0, 3.0]))
def test_w8a8_is_the_product_with_256_levels_from_the_least_input_on(rows, inner, outer, seed, shift):
    """Each input is off by at most half a level, of a weight that is rounded as int8's."""
    inputs, weight = rows_of_different_size(rows, inner, outer, seed)
    inputs = inputs + shift * inputs.std(1, correction=0, keepdim=True)
    rounded = rounded_to_int8(weight).double()
    error = pack(weight, "w8a8")(inputs).double() - inputs.double() @ rounded.T
    span = inputs.clamp(min=0).amax(1).double() - inputs.clamp(max=0).amin(1).double()
    allowed = span[:, None] / 255 / 2 * rounded.abs().sum(1)
    assert (error.abs() <= 1.0001 * allowed + 1e-9 * inputs.double().norm(dim=1, keepdim=True)).all()


@needs_native
@given(**sizes, seed=st.integers(0, 99))
def test_w8a8_is_exact_in_its_integers(rows, inner, outer, seed):
    """Bit for bit, so that processors with 8-bit products and others write the same texts."""
    inputs, weight = rows_of_different_size(rows, inner, outer, seed)
    least, most = inputs.clamp(max=0).amin(1, keepdim=True), inputs.clamp(min=0).amax(1, keepdim=True)
    step = 255 / (most - least)
    zero = (-least * step + 0.5).floor()
    levels = (inputs * step + (zero + 0.5)).floor().clamp(max=255) - zero
    scales = weight.abs().amax(1, keepdim=True) / 127
    sums = levels.long() @ (weight / scales).round().long().T
    expected = sums.float() * (scales.T * ((most - least) / 255))
    assert torch.equal(pack(weight, "w8a8")(inputs), expected)


@needs_native
@given(**sizes, seed=st.integers(0, 99))
def test_int4_is_close_to_the_product_in_every_row(rows, inner, outer, seed):
    """A group of 32 weights is rounded to 16 levels: each by at most half of one, 1/12 of the largest."""
    inputs, weight = rows_of_different_size(rows, inner, outer, seed)
    error = pack(weight, "int4")(inputs).double() - inputs.double() @ weight.double().T
    groups = torch.nn.functional.pad(weight, (0, -inner % 32)).double().view(outer, -1, 32)
    largest = groups.abs().amax(-1, keepdim=True).expand_as(groups).reshape(outer, -1)[:, :inner]
    allowed = inputs.double().abs() @ (largest / 12 + weight.double().abs().amax(1, keepdim=True) / 100).T
    assert (error.abs() <= 1.3 * allowed + 1e-9).all()


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
@given(**sizes, seed=st.integers(0, 99), threads=st.integers(1, 3))
def test_a_row_is_bit_for_bit_the_same_in_any_batch(rows, inner, outer, seed, threads, precision):
    inputs, weight = rows_of_different_size(rows, inner, outer, seed)
    product, before = pack(weight, precision), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        together = product(inputs)
        alone = torch.cat([product(row[None]) for row in inputs])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, alone)


@needs_native
@pytest.mark.parametrize("precision", PRECISIONS)
def test_zeros_give_zeros_and_what_is_not_finite_stays_with_its_row(precision):
    product = pack(torch.zeros(3, 8), precision)
    assert (product(numbers(2, 8, 0)) == 0).all()
    product = pack(numbers(3, 8, 1), precision)
    assert (product(torch.zeros(2, 8)) == 0).all()
    for rows in (1, 2, 9):
        for bad in (float("nan"), float("inf")):
            inputs = numbers(rows, 8, 2)
            inputs[0, 3] = bad
            finite = product(inputs).isfinite()
            assert not finite[0].any()
            assert finite[1:].all()
    weight = numbers(3, 8, 1)
    weight[1, 4] = float("nan")
    assert pack(weight, precision)(numbers(2, 8, 0)).isnan().tolist() == [[False, True, False]] * 2


@needs_native
def test_inputs_of_another_width_are_refused():
    with pytest.raises(ValueError, match="weight of 8 inputs"):
        NativeMatrix(numbers(3, 8, 0), "int8")(numbers(2, 9, 0))


def test_precisions_that_a_device_lacks_fall_back_with_a_warning(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(
        ValueError, match="unknown engine precision 'int3'; known: float32, bfloat16, int8, w8a8, int4"
    ):
        usable_precision("int3", cpu)
    with pytest.warns(UserWarning, match="no int8 kernels on cuda"):
        assert usable_precision("int8", torch.device("cuda")) == "float32"
    monkeypatch.setattr(linear, "native_library", lambda: None)
    with pytest.warns(UserWarning, match="no int4 kernels on cpu"):
        assert usable_precision("int4", cpu) == "float32"
    assert usable_precision("bfloat16", cpu) == "bfloat16"
