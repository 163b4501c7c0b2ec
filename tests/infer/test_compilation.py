"""The compiled objective is equal to the objective itself, and an objective that cannot be compiled trains without
compilation.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from compiled_pairs import CASES, ONE_FACET, SHAPE, assert_same, complaints, small_pair
from torch import Tensor, nn

from pyro_mfcvae.guides.assignments import AnalyticAssignment
from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import MixturePrior
from pyro_mfcvae.train.objective import Objective


def run(
    objective: Callable[[Tensor], Any], pair: MFCVAE, x: Tensor
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Results, gradients, and the buffers after the call; then the buffers are restored."""
    dependence = getattr(getattr(objective, "objective", objective), "dependence", None)
    buffers = dict(pair.named_buffers()) | ({} if dependence is None else dict(dependence.named_buffers()))
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    pair.zero_grad()
    pyro.set_rng_seed(1)
    results = list(objective(x))
    results[0].backward()
    grads = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
    after = {name: buffer.clone() for name, buffer in buffers.items()}
    for name, buffer in buffers.items():
        buffer.copy_(before[name])
    return [result.detach() for result in results], grads, after


# The cases that represent all others in the fast tests.
QUICK = ("conv, one facet", "one cluster", "independent facets")


class NoCompilerError(Exception):
    """An exception that represents any failure inside torch.compile."""


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_the_traced_operations_give_the_objective(case: str) -> None:
    """Losses, all gradients and the statistics of batch norm are equal, also after the schedule has changed alpha
    and beta.
    """
    pair = small_pair(*CASES[case])
    objective = Objective(
        pair,
        num_items=100,
        free_nats=0.3 if case == "free nats" else 0.0,
        independence=2.0 if case == "independent facets" else 0.0,
    )
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for weights in ([1.0, 1.0], [0.0, 1.0], [0.25, 0.75]):
        pair.model.alpha.copy_(torch.tensor(weights[: pair.num_facets]))
        pair.model.beta.copy_(torch.tensor(weights[: pair.num_facets]))
        assert_same(run(compiled, pair, x), run(objective, pair, x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        CASES["mlp"],
        CASES["conv"],
        [*CASES["conv"], "networks.channels_last=true"],
    ],
    ids=["mlp", "conv", "channels last"],
)
def test_compiled_is_as_written(settings: list[str], caplog: pytest.LogCaptureFixture) -> None:
    pair = small_pair(*settings)
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for weights in ([1.0, 1.0], [0.25, 0.75]):
        pair.model.alpha.copy_(torch.tensor(weights))
        pair.model.beta.copy_(torch.tensor(weights))
        assert_same(run(compiled, pair, x), run(objective, pair, x))
    assert complaints(caplog) == []


@pytest.mark.usefixtures("as_traced")
def test_tracing_has_no_side_effects() -> None:
    pair = small_pair("networks.kind=conv", *ONE_FACET[:2])
    buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    compiled = CompiledObjective(Objective(pair, num_items=100))
    state = torch.get_rng_state()
    compiled._compile(torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(pair.named_buffers()), buffers)
    assert all(p.grad is None for p in pair.parameters())
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.usefixtures("as_traced")
def test_pyro_runs_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = small_pair(*ONE_FACET)
    compiled, x = CompiledObjective(Objective(pair, num_items=100)), torch.rand(6, *SHAPE)
    compiled(x)
    monkeypatch.setattr(Objective, "forward", lambda *_: pytest.fail("was called again"))
    compiled(x)
    with pytest.raises(pytest.fail.Exception):
        compiled(x[:5])  # other shapes need another program


class ThresholdPrior(MixturePrior):
    """A user's decoder whose Python code reads the value of a tensor."""

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return super().components(loc, spread if spread.max().item() < 1e9 else spread.clamp_max(1e9))


def test_untraceable_objectives_run_without_compilation_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    pair = small_pair(*ONE_FACET)
    for prior in pair.model.priors:
        prior.__class__ = ThresholdPrior
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for _ in range(2):
        assert_same(run(compiled, pair, x), run(objective, pair, x))
    (message,) = complaints(caplog)
    assert message.startswith("not compiled; training is slower, but the results are the same: ")
    assert "\n" not in message


def test_a_failing_compiler_does_not_change_results(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise NoCompilerError("no C++ compiler\nand much more")

    monkeypatch.setattr("torch.compile", lambda *_, **__: break_down)
    pair = small_pair(*ONE_FACET)
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    assert_same(run(compiled, pair, x), run(objective, pair, x))
    assert complaints(caplog) == ["not compiled; training is slower, but the results are the same: no C++ compiler"]


@pytest.mark.usefixtures("as_traced")
def test_the_gradient_is_right_for_every_function_of_the_loss() -> None:
    pair = small_pair(*ONE_FACET)
    objective, x = Objective(pair, num_items=100), torch.rand(6, *SHAPE)

    def scaled(module: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [-0.25 * module(x)[0]]

    assert_same(run(scaled(CompiledObjective(objective)), pair, x), run(scaled(objective), pair, x))


@pytest.mark.usefixtures("as_traced")
def test_without_gradients_and_in_evaluation_it_is_the_objective() -> None:
    pair = small_pair("networks.kind=conv", *ONE_FACET[:2])
    objective, x = Objective(pair, num_items=100), torch.rand(6, *SHAPE)
    compiled = CompiledObjective(objective)
    compiled(x)
    pair.eval()
    assert_same(run(compiled, pair, x), run(objective, pair, x))
    with torch.no_grad():
        assert not compiled(x)[0].requires_grad


@pytest.mark.usefixtures("as_traced")
def test_networks_in_low_precision_and_densities_in_full() -> None:
    """Under autocast the matrix products of the networks are in bf16, and those of the densities are not."""
    torch.set_default_dtype(torch.float32)
    pair = small_pair(*ONE_FACET)
    objective, x = Objective(pair, num_items=100), torch.rand(6, *SHAPE)
    compiled = CompiledObjective(objective)

    def low(module: nn.Module) -> Callable[[Tensor], Any]:
        def call(x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return module(x)

        return call

    here, there, full = (run(f, pair, x) for f in (low(compiled), low(objective), objective))
    torch.testing.assert_close(here, there, rtol=0.02, atol=2e-3)  # 8 significant bits, summed in another order
    assert not torch.allclose(here[0][0], full[0][0], rtol=1e-5)
    assert here[0][0].dtype == torch.float32


def test_the_optimum_is_computed_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, seen = small_pair(), []
    evaluate = AnalyticAssignment.forward
    monkeypatch.setattr(
        AnalyticAssignment, "forward", lambda *args: seen.append(torch.is_grad_enabled()) or evaluate(*args)
    )
    Objective(pair, num_items=100)(torch.rand(6, *SHAPE))
    assert seen == [False, False]
