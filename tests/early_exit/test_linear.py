import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from early_exit import linear
from early_exit.linear import (
    PRECISIONS,
    Int8Product,
    has_exact_int8,
    pack,
    rounded_to_int8,
    usable_precision,
)

ENGINES = [name for name in ("fbgemm", "qnnpack") if name in torch.backends.quantized.supported_engines]


def numbers(rows: int, width: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def quantized_product(inputs: torch.Tensor, weight: torch.Tensor, levels: int) -> torch.Tensor:
    """Rows of inputs in -levels…levels, rows of the weight in -127…127, in float64."""
    inputs, weight = inputs.double(), weight.double()
    scales = inputs.abs().amax(1, keepdim=True) / levels
    weight_scales = weight.abs().amax(1, keepdim=True) / 127
    rounded = (inputs / scales).round() * scales
    return rounded @ ((weight / weight_scales).round() * weight_scales).T


@given(rows=st.integers(1, 40), inner=st.integers(1, 70), outer=st.integers(1, 70), seed=st.integers(0, 99))
@pytest.mark.parametrize("relu", [False, True])
def test_float32_is_the_product(rows, inner, outer, seed, relu):
    inputs, weight = numbers(rows, inner, seed), numbers(outer, inner, seed + 1)
    residual = numbers(rows, outer, seed + 2)
    expected = inputs.double() @ weight.double().T
    product = pack(weight, "float32", relu)
    assert product.width == outer
    after = expected.clamp(min=0) if relu else expected
    torch.testing.assert_close(product(inputs).double(), after, atol=1e-4, rtol=1e-5)
    if not relu:
        torch.testing.assert_close(
            product.add(inputs, residual).double(), expected + residual.double(), atol=1e-4, rtol=1e-5
        )


@pytest.mark.skipif("fbgemm" not in ENGINES, reason="fbgemm is of x86 processors")
@pytest.mark.parametrize("relu", [False, True])
def test_int8_is_the_product_of_rounded_rows(relu):
    for seed in range(20):
        inputs, weight = rows_of_different_size(seed)
        expected = quantized_product(inputs, weight, linear._int8_levels("fbgemm"))
        expected = expected.clamp(min=0) if relu else expected
        # An input in the middle between two levels may go either way.
        one_level = inputs.abs().amax(1, keepdim=True) / 63 * weight.abs().max()
        error = (pack(weight, "int8", relu)(inputs).double() - expected).abs()
        assert (error <= 1.1 * one_level).all()
        assert (error > 0.01 * one_level).float().mean() < 0.05


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_is_close_to_the_product_in_every_row(engine, monkeypatch):
    monkeypatch.setattr(linear, "_quantized_engine", lambda: engine)
    for seed in range(20):
        inputs, weight = rows_of_different_size(seed)
        exact = inputs.double() @ weight.double().T
        error = pack(weight, "int8")(inputs).double() - exact
        assert (error.norm(dim=1) <= 0.05 * inputs.double().norm(dim=1) * weight.double().norm()).all()


def rows_of_different_size(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs whose rows differ in size by up to a million, and a weight."""
    rows, inner, outer = 1 + 37 * seed % 50, 8 + 11 * seed, 5 + 7 * seed
    inputs = numbers(rows, inner, seed) * 10.0 ** torch.arange(rows).remainder(7)[:, None]
    return inputs, numbers(outer, inner, seed + 1)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [2, 9, 600, 1025])
def test_a_row_in_int8_does_not_depend_on_its_batch(engine, rows, monkeypatch):
    monkeypatch.setattr(linear, "_quantized_engine", lambda: engine)
    inputs, product = numbers(rows, 64, 0), pack(numbers(33, 64, 1), "int8")
    inputs[1] *= 1000
    together = product(inputs)
    for row in (0, rows // 2, rows - 1):
        torch.testing.assert_close(product(inputs[row : row + 1])[0], together[row], atol=1e-4, rtol=1e-4)


def test_int8_zeros_give_zeros_and_nan_gives_nan():
    product = pack(torch.zeros(3, 8), "int8")
    assert (product(numbers(2, 8, 0)) == 0).all()
    product = pack(numbers(3, 8, 1), "int8")
    assert (product(torch.zeros(1, 8)) == 0).all()
    assert (product(torch.zeros(2, 8)) == 0).all()
    for rows in (1, 2):
        inputs = numbers(rows, 8, 2)
        inputs[0, 3] = float("nan")
        nan = product(inputs).isnan()
        assert nan[0].all()
        assert not nan[1:].any()


def test_bfloat16_rounds_inputs_and_weights():
    inputs, weight = numbers(5, 64, 0), numbers(7, 64, 1)
    product = pack(weight, "bfloat16")
    assert product(inputs).dtype == torch.bfloat16
    expected = inputs.bfloat16().double() @ weight.bfloat16().double().T
    torch.testing.assert_close(product(inputs).double(), expected, atol=0.1, rtol=0.01)
    assert product.add(inputs, numbers(5, 7, 2)).dtype == torch.float32


def test_precisions_that_a_device_lacks_fall_back_with_a_warning(monkeypatch):
    cpu = torch.device("cpu")
    assert [usable_precision(name, cpu) for name in PRECISIONS] == list(PRECISIONS)
    with pytest.raises(ValueError, match="unknown engine precision 'int4'; known: float32, bfloat16, int8"):
        usable_precision("int4", cpu)
    with pytest.warns(UserWarning, match="no int8 kernels on cuda"):
        assert usable_precision("int8", torch.device("cuda")) == "float32"
    monkeypatch.setattr(linear, "_quantized_engine", lambda: None)
    with pytest.warns(UserWarning, match="no int8 kernels on cpu"):
        assert usable_precision("int8", cpu) == "float32"


@pytest.mark.skipif(not has_exact_int8("cpu"), reason="needs torch's fbgemm kernels")
@given(seed=st.integers(0, 99), rows=st.integers(1, 9))
def test_products_of_integers_are_exact(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(40, 70, generator=generator) * torch.rand(40, 1, generator=generator)
    product = Int8Product(weight)
    inputs = torch.randint(-product.levels, product.levels + 1, (rows, 70), generator=generator).float()
    rounded = rounded_to_int8(weight).double()
    expected = inputs.double() @ rounded.T
    sizes = inputs.double().norm(dim=1)[:, None] * rounded.norm(dim=1)  # what float32 is relative to
    assert ((product(inputs) - expected).abs() <= 1e-6 * sizes + 1e-12).all()
