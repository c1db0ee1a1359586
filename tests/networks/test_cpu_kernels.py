"""The CPU's own linear maps, attention and gated layers are PyTorch's functions, to rounding, with their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from ldm_train.networks import cpu_kernels
from ldm_train.networks.cpu_kernels import FastLinear, attend, gated_gelu, is_supported

# (B, H, N, L, head size): many scores; a narrow head; lengths that no block size divides; those left to PyTorch.
SHAPES = [(1, 1, 1024, 256, 64), (2, 3, 600, 500, 20), (2, 8, 256, 77, 8), (1, 9, 300, 33, 5), (2, 2, 64, 77, 16)]


ONE_DNN = pytest.mark.skipif(not cpu_kernels.ONE_DNN, reason="without oneDNN there are PyTorch's own functions alone")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output, and the gradient of a fixed projection of it by every input."""
    inputs = [part.to(dtype, copy=True).requires_grad_() for part in inputs]
    output = function(*inputs)
    output.backward(normal(*output.shape, seed=9).to(dtype))
    gradients = [part.grad for part in inputs]
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


def assert_same_to_rounding(function: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Against float64 it errs at most 3 times as much as PyTorch in float32 does, and a few units in the last place."""
    truth = with_gradients(reference, inputs, torch.float64)
    actual, pytorch = (with_gradients(f, inputs, torch.float32) for f in (function, reference))
    for exact, a, b in zip(truth, actual, pytorch, strict=True):
        error, allowed = (a - exact).norm() / exact.norm(), (b - exact).norm() / exact.norm()
        assert error <= 3 * allowed + 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0], ids=["plain", "sharp", "one-hot"])
@pytest.mark.parametrize("avx_512", [True, False])
def test_attention(shape: tuple[int, ...], scale: float, avx_512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With large scores, whose powers would overflow, too."""
    monkeypatch.setattr(cpu_kernels, "AVX_512", avx_512)
    batch, heads, n, length, size = shape
    q, k, v = (normal(batch, rows, heads, size, seed=i).transpose(1, 2) for i, rows in enumerate((n, length, length)))
    assert_same_to_rounding(lambda *parts: attend(*parts, None), F.scaled_dot_product_attention, [scale * q, k, v])


@ONE_DNN
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scores", [500, 70_000, 2**19], ids=["many blocks", "a head at a time", "heads together"])
def test_attention_in_blocks(shape: tuple[int, ...], scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "SCORES_AT_ONCE", scores)
    batch, heads, n, length, size = shape
    q, k, v = (normal(batch, rows, heads, size, seed=i).transpose(1, 2) for i, rows in enumerate((n, length, length)))
    assert_same_to_rounding(cpu_kernels._Attention.apply, F.scaled_dot_product_attention, [q, k, v])


@pytest.mark.parametrize("avx_512", [True, False])
def test_attention_is_pytorch_s_unless_it_is_faster_here(avx_512: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "AVX_512", avx_512)
    q, k, v = (normal(1, 2, rows, 64, seed=i).float() for i, rows in enumerate((1024, 1024, 1024)))
    assert ("_Attention" in str(attend(q.requires_grad_(), k, v, None).grad_fn)) == (cpu_kernels.ONE_DNN and not avx_512)
    narrow = attend(q[..., :8], k[..., :8], v[..., :8], None)
    assert ("_Attention" in str(narrow.grad_fn)) == cpu_kernels.ONE_DNN


def test_attention_under_autocast_computes_in_float32() -> None:
    q, k, v = (normal(2, 3, 20, 8, seed=i).to(torch.bfloat16) for i in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q, k, v, None)
    exact = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert torch.equal(out, exact.to(torch.bfloat16))


def test_attention_with_a_mask() -> None:
    q, k, v = (normal(2, 4, rows, 8, seed=i).float() for i, rows in enumerate((512, 600, 600)))
    mask = torch.arange(600).expand(2, 600) < torch.tensor([[600], [100]])
    assert_close(attend(q[1:], k[1:], v[1:], mask[1:]), attend(q[1:], k[1:, :, :100], v[1:, :, :100], None))


@ONE_DNN
@pytest.mark.parametrize("lead", [(7,), (2, 300), (1, 1)])
@pytest.mark.parametrize(("width", "out"), [(12, 5), (64, 512), (300, 320)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("avx_512", [True, False])
def test_linear(
    lead: tuple[int, ...], width: int, out: int, bias: bool, avx_512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "AVX_512", avx_512)
    inputs = [normal(*lead, width), normal(out, width, seed=1), *([normal(out, seed=2)] if bias else [])]

    def layer(x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        return cpu_kernels._Linear.apply(x, weight, *(rest or [None]))

    assert_same_to_rounding(layer, F.linear, inputs)


@pytest.mark.parametrize("view", [lambda x: x.transpose(1, 2), lambda x: x[:, ::2], lambda x: x[..., :6], lambda x: x[:1]])
def test_linear_takes_any_layout(view: Callable[[Tensor], Tensor]) -> None:
    x = view(normal(3, 8, 12).float())
    layer = FastLinear(x.shape[-1], 4)
    assert_close(layer(x), F.linear(x.contiguous(), layer.weight, layer.bias))


def test_linear_without_a_gradient_for_its_input() -> None:
    layer, x = FastLinear(4, 3), normal(5, 4).float()
    layer(x).sum().backward()
    assert_close(layer.weight.grad, x.sum(0).expand(3, 4))
    assert_close(layer.bias.grad, torch.full((3,), 5.0))


def test_gated_gelu() -> None:
    def reference(hidden: Tensor) -> Tensor:
        value, gate = hidden.chunk(2, dim=-1)
        return value * F.gelu(gate)

    assert_same_to_rounding(gated_gelu, reference, [normal(2, 30, 48)])


@ONE_DNN
def test_only_float32_of_the_cpu_outside_autocast_and_compilation() -> None:
    x = torch.ones(2, 2)
    assert is_supported(x)
    assert not is_supported(x, x.double())
    assert not is_supported(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_supported(x)
        assert FastLinear(2, 2)(x).dtype == torch.bfloat16


def test_without_one_dnn_all_is_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_kernels, "ONE_DNN", False)
    layer, x = FastLinear(4, 6), normal(5, 4).float()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert "_Linear" not in str(layer(x).grad_fn)
