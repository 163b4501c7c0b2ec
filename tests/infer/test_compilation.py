"""Compiled and as written, the objective says the same; what cannot be compiled trains all the same."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.guides.assignments import AnalyticAssignment
from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import MixturePrior, MultiFacetModel
from pyro_mfcvae.runs.checkpoints import load_training, save_training
from pyro_mfcvae.train.objective import Objective, compilation_pays
from pyro_mfcvae.train.training import Training

SMALL = override(
    Config(data=DataConfig(source="none")),
    [
        "facets.num_clusters=[3, 4]",
        "facets.latent_dim=[2, 3]",
        "networks.head_init_scale=1.0",
        "training.epochs=1",
        "training.batch_size=16",
        "training.compile=true",
    ],
)
SHAPE = (1, 8, 8)


GAUSSIAN = ["likelihood.kind=gaussian", "likelihood.learn_scale=true"]
MLP = ["networks.encoder_dims=[8, 9]", "networks.decoder_dims=[8, 9]", "networks.hidden_dim=8"]


def configure(*settings: str) -> Config:
    networks = ["networks.channels=[3, 4]"] if "networks.kind=conv" in settings else MLP
    likelihood = [] if "likelihood.kind=bernoulli" in settings else GAUSSIAN
    return override(SMALL, [*networks, *likelihood, *settings])


def small_pair(*settings: str) -> MFCVAE:
    pyro.set_rng_seed(0)
    return build_pair(configure(*settings), SHAPE).train()


def run(
    objective: Callable[[Tensor], Any], pair: MFCVAE, x: Tensor
) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Results, gradients, and buffers afterwards, which are put back."""
    before = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    pair.zero_grad()
    pyro.set_rng_seed(1)
    results = list(objective(x))
    results[0].backward()
    grads = {name: p.grad.clone() for name, p in pair.named_parameters() if p.grad is not None}
    after = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    for name, buffer in pair.named_buffers():
        buffer.copy_(before[name])
    return [result.detach() for result in results], grads, after


def assert_same(here: Any, there: Any) -> None:
    torch.testing.assert_close(here, there, rtol=0.0, atol=1e-10)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of compiling, torch's own notes left out."""
    records = caplog.get_records("call")
    return [record.getMessage() for record in records if record.name == "pyro_mfcvae.infer.compilation"]


class NoCompilerError(Exception):
    """What stands for any failure inside torch.compile."""


@pytest.fixture
def as_traced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The traced operations one by one instead of compiled, which takes half a minute each time."""
    monkeypatch.setattr("torch.compile", lambda traced, **_: traced)
    yield
    assert complaints(caplog) == []


CASES = {
    "mlp": ["prior.covariance=full"],
    "conv": ["networks.kind=conv", "networks.num_residual_blocks=1", "networks.gated=true", "prior.covariance=tied"],
    "free nats": ["prior.covariance=spherical"],
    "bernoulli": ["likelihood.kind=bernoulli", "prior.learn_weights=false"],
    "one cluster": ["facets.num_clusters=[1, 4]"],
    **{rule: [f"assignment.kind={rule}"] for rule in ("sample", "monte_carlo", "vade", "amortized")},
    "student": ["prior.kind=student_t", "assignment.kind=monte_carlo"],
}


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("case", CASES)
def test_what_is_traced_is_the_objective(case: str) -> None:
    """Losses, all gradients and the statistics of batch norm, also after the schedule has moved alpha and beta."""
    pair = small_pair(*CASES[case])
    objective = Objective(pair, num_items=100, free_nats=0.3 if case == "free nats" else 0.0)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for weights in ([1.0, 1.0], [0.0, 1.0], [0.25, 0.75]):
        pair.model.alpha.copy_(torch.tensor(weights))
        pair.model.beta.copy_(torch.tensor(weights))
        assert_same(run(compiled, pair, x), run(objective, pair, x))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["mlp", "conv"])
def test_compiled_is_as_written(case: str, caplog: pytest.LogCaptureFixture) -> None:
    pair = small_pair(*CASES[case])
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for weights in ([1.0, 1.0], [0.25, 0.75]):
        pair.model.alpha.copy_(torch.tensor(weights))
        pair.model.beta.copy_(torch.tensor(weights))
        assert_same(run(compiled, pair, x), run(objective, pair, x))
    assert complaints(caplog) == []


@pytest.mark.usefixtures("as_traced")
def test_tracing_leaves_nothing_behind() -> None:
    pair = small_pair(*CASES["conv"])
    buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    compiled = CompiledObjective(Objective(pair, num_items=100))
    state = torch.get_rng_state()
    compiled._compile(torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(dict(pair.named_buffers()), buffers)
    assert all(p.grad is None for p in pair.parameters())
    assert list(pyro.get_param_store().keys()) == []


@pytest.mark.usefixtures("as_traced")
def test_pyro_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = small_pair()
    compiled, x = CompiledObjective(Objective(pair, num_items=100)), torch.rand(6, *SHAPE)
    compiled(x)
    monkeypatch.setattr(Objective, "forward", lambda *_: pytest.fail("was called again"))
    compiled(x)
    with pytest.raises(pytest.fail.Exception):
        compiled(x[:5])  # other shapes, another program


class ThresholdPrior(MixturePrior):
    """A user's own, whose Python looks at a value."""

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return super().components(loc, spread if spread.max().item() < 1e9 else spread.clamp_max(1e9))


def test_what_cannot_be_traced_is_computed_as_written_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    pair = small_pair()
    for prior in pair.model.priors:
        prior.__class__ = ThresholdPrior
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    for _ in range(2):
        assert_same(run(compiled, pair, x), run(objective, pair, x))
    (message,) = complaints(caplog)
    assert message.startswith("not compiled, which costs time and nothing else: ")
    assert "\n" not in message


def test_a_compiler_that_fails_costs_nothing_but_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: object) -> None:
        raise NoCompilerError("no C++ compiler\nand much more")

    monkeypatch.setattr("torch.compile", lambda *_, **__: break_down)
    pair = small_pair(*CASES["conv"])
    objective = Objective(pair, num_items=100)
    compiled, x = CompiledObjective(objective), torch.rand(6, *SHAPE)
    assert_same(run(compiled, pair, x), run(objective, pair, x))
    assert complaints(caplog) == ["not compiled, which costs time and nothing else: no C++ compiler"]


@pytest.mark.usefixtures("as_traced")
def test_the_gradient_is_that_of_whatever_the_loss_enters() -> None:
    pair = small_pair()
    objective, x = Objective(pair, num_items=100), torch.rand(6, *SHAPE)

    def scaled(module: nn.Module) -> Callable[[Tensor], list[Tensor]]:
        return lambda x: [-0.25 * module(x)[0]]

    assert_same(run(scaled(CompiledObjective(objective)), pair, x), run(scaled(objective), pair, x))


@pytest.mark.usefixtures("as_traced")
def test_without_gradients_and_in_evaluation_it_is_the_objective() -> None:
    pair = small_pair(*CASES["conv"])
    objective, x = Objective(pair, num_items=100), torch.rand(6, *SHAPE)
    compiled = CompiledObjective(objective)
    compiled(x)
    pair.eval()
    assert_same(run(compiled, pair, x), run(objective, pair, x))
    with torch.no_grad():
        assert not compiled(x)[0].requires_grad


@pytest.mark.usefixtures("as_traced")
def test_networks_in_low_precision_and_densities_in_full() -> None:
    """As under autocast: the products of the networks are bf16, those of the densities are not."""
    torch.set_default_dtype(torch.float32)
    pair = small_pair()
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


# --- in Pyro's SVI ---------------------------------------------------------------------------------------------------


def run_svi(pair: MFCVAE, loss: FacetELBO, batches: list[Tensor], **arguments: Any) -> list[float]:
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.01}), loss=loss)
    pyro.set_rng_seed(1)
    return [svi.step(x, **arguments) for x in batches]


def named_pair(*settings: str) -> MFCVAE:
    """Pairs of the same names in an empty store, so that what they leave there can be compared."""
    pair = small_pair(*settings)
    pyro.clear_param_store()
    model = MultiFacetModel(list(pair.model.priors), pair.model.decoder, pair.model.likelihood, name="model")
    globals_guide = None
    if model.global_sites:
        globals_guide = AutoNormal(model.sample_globals, init_loc_fn=init_to_value(values=model.starting_point()))
    guide = MultiFacetGuide(model, encoder=pair.guide.encoder, globals_guide=globals_guide, name="guide")
    return MFCVAE(model, guide).train()


SVI_CASES = {"mlp": [], "conv": CASES["conv"], "constrained parameters": ["prior.kind=bayesian"]}


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("case", SVI_CASES)
def test_svi_takes_the_same_steps(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, and all that is in Pyro's store, under the same names; the objective itself is called no more."""
    batches = list(torch.rand(6, 8, *SHAPE))
    found = []
    for loss in (FacetELBO(), FacetELBO(compile=True)):
        pair = named_pair(*SVI_CASES[case])
        losses = run_svi(pair, loss, batches[:2])
        if loss.compile:
            monkeypatch.setattr(FacetELBO, "terms", lambda *_: pytest.fail("was called again"))
        losses += run_svi(pair, loss, batches[2:])
        assert all(p.grad is not None for p in pair.guide.encoder.parameters())
        found.append((losses, {name: value.detach() for name, value in pyro.get_param_store().items()}))
    assert list(found[1][1]) == list(found[0][1])
    assert_same(found[1], found[0])


@pytest.mark.usefixtures("as_traced")
def test_one_loss_whose_pair_and_settings_change() -> None:
    x = torch.rand(8, *SHAPE)
    first, second, loss = small_pair(), small_pair("prior.covariance=full"), FacetELBO(compile=True)
    for pair, num_data, closed_form in (
        (first, None, True),
        (second, None, True),
        (first, None, True),
        (first, 80, True),
        (first, 80, False),
    ):
        pair.model.num_data, loss.closed_form = num_data, closed_form
        for _ in range(2):
            pair.zero_grad()
            pyro.set_rng_seed(1)
            here = loss.loss_and_grads(pair.model, pair.guide, x), [p.grad.clone() for p in pair.parameters()]
            pair.zero_grad()
            pyro.set_rng_seed(1)
            as_written = FacetELBO(closed_form=closed_form)
            there = as_written.loss_and_grads(pair.model, pair.guide, x), [p.grad for p in pair.parameters()]
            assert_same(here, there)


@pytest.mark.usefixtures("as_traced")
def test_the_parameters_of_a_cleared_store_are_noted_again() -> None:
    x, loss = torch.rand(8, *SHAPE), FacetELBO(compile=True)
    pair = small_pair()
    run_svi(pair, loss, [x, x])
    names = set(pyro.get_param_store().keys())
    pyro.clear_param_store()
    before = [p.clone() for p in pair.parameters()]
    run_svi(pair, loss, [x, x])
    assert set(pyro.get_param_store().keys()) == names
    assert not any(torch.equal(p, old) for p, old in zip(pair.parameters(), before, strict=True))


@pytest.mark.usefixtures("as_traced")
def test_known_clusters_and_losses_without_gradients_are_computed_as_written() -> None:
    pair, x, known = small_pair(), torch.rand(8, *SHAPE), {1: torch.arange(8) % 4}
    loss = FacetELBO(compile=True)
    run_svi(pair, loss, [x, x])
    for arguments in ({}, {"known": known}):
        pyro.set_rng_seed(1)
        expected = FacetELBO().loss(pair.model, pair.guide, x, **arguments)
        pyro.set_rng_seed(1)
        assert loss.loss(pair.model, pair.guide, x, **arguments) == expected
        pyro.set_rng_seed(1)
        assert loss.loss_and_grads(pair.model, pair.guide, x, **arguments) == pytest.approx(expected, abs=1e-10)
    assert expected != FacetELBO().loss(pair.model, pair.guide, x)


# --- in a training --------------------------------------------------------------------------------------------------


def trained(*settings: str) -> tuple[dict[str, Tensor], list[float]]:
    pyro.set_rng_seed(0)
    config = configure(*settings)
    images = torch.rand(48, *SHAPE)
    training = Training(
        build_pair(config, SHAPE),
        images,
        schedule=build_schedule(config, steps_per_epoch(len(images), config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
    )
    elbos = [training.run_epoch().elbo for _ in range(2)]
    return {name: value.clone() for name, value in training.pair.state_dict().items()}, elbos


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_a_compiled_training_is_the_training(kind: str) -> None:
    settings = [f"networks.kind={kind}", "training.free_nats=0.1"]
    here, there = trained(*settings), trained(*settings, "training.compile=false")
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("as_traced")
def test_a_compiled_training_that_is_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    def start() -> Training:
        pyro.set_rng_seed(0)
        images, config = torch.rand(48, *SHAPE), configure("networks.kind=conv")
        schedule = build_schedule(config, steps_per_epoch(len(images), config.training.batch_size))
        return Training(
            build_pair(config, SHAPE),
            images,
            schedule=schedule,
            settings=config.training,
            mixture_fit=config.mixture_fit,
        )

    whole = start()
    records = [whole.run_epoch() for _ in range(2)]
    state = torch.get_rng_state()
    first = start()
    assert first.run_epoch() == records[0]
    save_training(first, tmp_path / "training.safetensors")
    second = start()
    load_training(second, tmp_path / "training.safetensors")
    assert second.run_epoch() == records[1]
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in whole.pair.state_dict().items():
        assert torch.equal(second.pair.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("kind", "device", "num_steps", "expected"),
    [
        ("mlp", "cpu", 19_999, False),
        ("mlp", "cpu", 20_000, True),
        ("conv", "cpu", 10**6, False),
        ("conv", "cuda:1", 1_000, False),
        ("conv", "cuda:1", 50_000, True),
        ("mlp", "mps", 10**6, False),
    ],
)
def test_networks_device_and_length_decide(kind: str, device: str, num_steps: int, expected: bool) -> None:
    pair = small_pair(f"networks.kind={kind}")
    assert compilation_pays(pair, device=torch.device(device), num_steps=num_steps) is expected
