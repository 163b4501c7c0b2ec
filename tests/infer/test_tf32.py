"""TF32 is used in the products of linear layers, forward and backward, and in no density."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pytest
import torch
from compiled_pairs import CASES, ONE_FACET, SHAPE, assert_same, small_pair
from torch import Tensor, nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_mfcvae.infer.compilation import CompiledObjective, trace
from pyro_mfcvae.infer.tf32 import TF32Layers, tf32_product, tf32_products
from pyro_mfcvae.train.objective import Objective

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::linalg_solve_triangular", "aten::triangular_solve")


MATMUL = torch.backends.cuda.matmul
FLAG, WITH_TF32, FULL = (
    ("fp32_precision", "tf32", "none") if hasattr(MATMUL, "fp32_precision") else ("allow_tf32", True, False)
)  # before torch 2.9 there is only the old flag


def precision() -> object:
    return getattr(MATMUL, FLAG)


class Products(TorchDispatchMode):
    """Lists the products that are computed, each with the precision that CUDA would use."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, object]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name().split(".")[0]
        result = func(*args, **(kwargs or {}))
        if name in PRODUCTS:
            self.found.append((name, precision()))
        return result


def linear_layers(pair: nn.Module) -> int:
    return sum(isinstance(module, nn.Linear) for module in pair.modules())


def losses(objective: Callable[[Tensor], Any], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    pyro.set_rng_seed(1)
    module = objective.objective if isinstance(objective, CompiledObjective) else objective
    module.zero_grad()
    loss = objective(x)[0]
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", ["mlp", "conv"])
def test_layers_are_in_tf32_forward_and_backward_and_densities_are_not(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def matmul(a: Tensor, b: Tensor) -> Tensor:
        in_operator.append(precision())
        return a @ b

    in_operator: list[str] = []
    monkeypatch.setattr("torch.matmul", matmul)  # the operator calls it; densities write @
    pair = small_pair(*CASES[case], "prior.covariance=full")
    x = torch.rand(6, *SHAPE)
    with Products() as plain:
        losses(Objective(pair, num_items=100), x)
    assert in_operator == []
    with Products() as products:
        losses(Objective(pair, num_items=100, tf32=True), x)
    # A layer has a product for its output, one for the gradient of its weight, and, unless its input is x, one for the
    # gradient of its input.
    num_products = 3 * linear_layers(pair) - (1 if case == "mlp" else 0)
    assert in_operator == [WITH_TF32] * num_products
    # The mode does not see inside the operator, so it has recorded only the densities, with and without TF32 for the
    # layers.
    assert {found for _, found in plain.found + products.found} == {FULL}
    assert len(plain.found) - len(products.found) == num_products
    assert products.found


@pytest.mark.parametrize("case", CASES)
def test_on_other_devices_than_cuda_nothing_changes(case: str) -> None:
    """On a CPU in float64 the losses and gradients are those without TF32."""
    pair, x = small_pair(*CASES[case]), torch.rand(6, *SHAPE)
    expected = losses(Objective(pair, num_items=100), x)
    assert_same(losses(Objective(pair, num_items=100, tf32=True), x), expected)


@pytest.mark.usefixtures("as_traced")
def test_a_traced_objective_keeps_tf32() -> None:
    pair, x = small_pair("prior.covariance=full", *ONE_FACET), torch.rand(6, *SHAPE)
    objective = Objective(pair, num_items=100, tf32=True)
    traced = trace(objective, x)
    own = sum(node.target is torch.ops.pyro_mfcvae.tf32_product.default for node in traced.graph.nodes)
    assert own == 3 * linear_layers(pair) - 1
    assert_same(losses(CompiledObjective(objective), x), losses(objective, x))


def test_a_stack_of_layers_is_one_product() -> None:
    def layer(weight: Tensor, x: Tensor) -> Tensor:
        with TF32Layers():
            return F.linear(x, weight)

    weights, x = torch.rand(3, 4, 5), torch.rand(2, 7, 5)
    batched = make_fx(vmap(layer, in_dims=(0, None)))(weights, x)
    names = [str(node.target) for node in batched.graph.nodes if node.op == "call_function"]
    assert names.count("pyro_mfcvae.tf32_product.default") == 1
    torch.testing.assert_close(batched(weights, x), torch.stack([x @ w.mT for w in weights]), rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_product_and_lie_like_the_weight() -> None:
    a, b = torch.rand(4, 3, requires_grad=True), torch.rand(3, 5, requires_grad=True)
    assert torch.autograd.gradcheck(tf32_product, (a, b))
    weight = torch.rand(5, 3, requires_grad=True)
    with TF32Layers():
        F.linear(a, weight).square().sum().backward()
    assert weight.grad is not None and weight.grad.is_contiguous()


def test_autocast_overrides_tf32() -> None:
    x, weight = torch.rand(4, 3, dtype=torch.float32), torch.rand(5, 3, dtype=torch.float32)
    with TF32Layers(), torch.autocast("cpu", torch.bfloat16):
        assert F.linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize("chosen", ["none", "ieee", "tf32"] if FLAG == "fp32_precision" else [False, True])
def test_the_setting_of_the_process_is_restored(chosen: str | bool) -> None:
    before = precision()
    setattr(MATMUL, FLAG, chosen)
    try:
        with pytest.raises(RuntimeError, match="inside"), tf32_products():
            assert precision() == WITH_TF32
            raise RuntimeError("inside")
        assert precision() == chosen
    finally:
        setattr(MATMUL, FLAG, before)


def test_older_versions_of_torch_have_another_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    class Matmul:
        allow_tf32 = False

    matmul = Matmul()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    with tf32_products():
        assert matmul.allow_tf32 is True
    assert matmul.allow_tf32 is False
