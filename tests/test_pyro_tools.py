"""A test per row of docs/pyro_tools.md: uses that work give the right value, and refused uses give the reason."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from identity_encoder import make_model
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    JitTraceEnum_ELBO,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
    infer_discrete,
)
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import MixturePrior, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


@pytest.mark.filterwarnings("ignore:.*sample sites configured for enumeration:UserWarning")
@pytest.mark.parametrize("loss", (Trace_ELBO, TraceGraph_ELBO))
def test_losses_that_draw_the_clusters_have_the_elbo_as_their_mean(
    make_pair: MakePair, make_x: MakeX, loss: Any
) -> None:
    """4 standard errors of 30 draws for one item repeated 200 times: 1 seed in 16,000."""
    model, guide = make_pair()
    x = make_x(1).expand(200, -1, -1, -1)
    drawn = torch.tensor([loss().loss(model, guide, x) for _ in range(30)])
    exact = torch.tensor([FacetELBO(num_particles=20).loss(model, guide, x) for _ in range(10)])
    assert (drawn.mean() - exact.mean()).abs() < 4 * (drawn.var() / 30 + exact.var() / 10).sqrt()


def test_tmc_with_enumerated_clusters_is_the_bound_of_the_collapsed_mixture(make_pair: MakePair, make_x: MakeX) -> None:
    """TraceTMC_ELBO is E[log sum_c …], which is FacetELBO with SampleAssignment."""
    model, guide = make_pair(1)
    x = make_x(3)
    pyro.set_rng_seed(1)
    tmc = TraceTMC_ELBO(max_plate_nesting=1).loss(model, guide, x)
    pyro.set_rng_seed(1)
    (q,) = guide.posteriors(x)
    z, mixture = q.rsample(), guide.typical_priors()[0]
    collapsed = (mixture.log_weights() + mixture.log_prob(z)).logsumexp(-1) - q.log_prob(z)
    assert tmc == pytest.approx(-(collapsed + model.log_likelihood([z], x)).sum().item(), abs=1e-10)


def test_known_clusters_condition_the_models_trace(make_pair: MakePair, make_x: MakeX) -> None:
    """Draws and infer_discrete return the known clusters, and the joint density is the density at them."""
    model, guide = make_pair()
    x, c = make_x(6), torch.tensor([0, 2, -1, 1, -1, 0])
    trace = poutine.trace(model).get_trace(x, known={0: c})
    trace.compute_log_prob()
    drawn = trace.nodes["c_0"]["value"]
    assert torch.equal(drawn[c >= 0], c[c >= 0])
    log_weights = guide.typical_priors()[0].log_weights()
    torch.testing.assert_close(trace.nodes["c_0"]["log_prob"], log_weights[drawn])
    zs = {f"z_{j}": 2 * torch.randn(6, 2 + j) for j in range(2)}
    inferred = infer_discrete(config_enumerate(poutine.condition(model, data=zs)), first_available_dim=-2)
    for _ in range(20):
        found = poutine.trace(inferred).get_trace(x, known={0: c}).nodes["c_0"]["value"]
        assert torch.equal(found[c >= 0], c[c >= 0])
    sampled = Predictive(model, guide=guide, num_samples=3, parallel=True)(x, known={0: c})["c_0"]
    assert (sampled[:, c >= 0] == c[c >= 0]).all()


@pytest.mark.parametrize("dtype", (torch.int32, torch.int16, torch.uint8, "numpy", "list"))
def test_known_clusters_may_be_integers_of_any_kind(make_pair: MakePair, make_x: MakeX, dtype: Any) -> None:
    model, guide = make_pair()
    x, c = make_x(4), torch.tensor([0, 2, 1, 0])
    values: Any = c.numpy() if dtype == "numpy" else c.tolist() if dtype == "list" else c.to(dtype)
    pyro.set_rng_seed(1)
    expected = FacetELBO().loss(model, guide, x, known={0: c})
    pyro.set_rng_seed(1)
    assert FacetELBO().loss(model, guide, x, known={0: values}) == expected
    for wrong in (c.bool(), c.double(), ["a", "b", "c", "d"]):
        with pytest.raises(InputError, match="expected the known clusters of facet 0 as 4 integers"):
            FacetELBO().loss(model, guide, x, known={0: wrong})


def test_new_items_are_not_scaled_like_a_batch(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(num_data=5)
    for parallel in (False, True):
        assert Predictive(model, num_samples=3, parallel=parallel)(num=8)["x"].shape == (3, 8, 1, 2, 3)
    posterior = Predictive(guide, num_samples=3)(make_x(4))
    again = Predictive(poutine.uncondition(model), posterior_samples=posterior)(make_x(4))["x"]
    assert again.shape == (3, 4, 1, 2, 3)
    trace = poutine.trace(model).get_trace(num=8)
    assert trace.nodes["x"]["scale"] == 1.0


def test_do_sets_a_cluster(make_pair: MakePair) -> None:
    model, guide = make_pair()
    trace = poutine.trace(poutine.do(model, data={"c_0": torch.full((500,), 2)})).get_trace(num=500)
    component = guide.typical_priors()[0].component(torch.tensor(2))
    error = (trace.nodes["z_0"]["value"].mean(0) - component.mean).abs()
    assert (error < 4.5 * component.stddev / 500**0.5).all()


def test_nuts_samples_theta_and_z() -> None:
    """One item, one cluster: draws of z have the mean of p(z | x), which importance weights also estimate."""
    prior = MixturePrior(Facet(num_clusters=1, latent_dim=1))
    model = make_model(prior)
    model.requires_grad_(False).eval()
    x = torch.tensor([[0.4]])
    kernel = NUTS(poutine.block(poutine.condition(model, data={"c_0": torch.tensor([0])}), hide=["c_0"]))
    mcmc = MCMC(kernel, num_samples=150, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    z = prior().sample(20_000)[1][:, None]
    weights = model.log_likelihood([z], x).softmax(0)
    mean, spread = (weights * z[..., 0]).sum(), 1.0
    assert (mcmc.get_samples()["z_0"].mean() - mean).abs() < 5 * spread / 150**0.5


def test_an_automatic_guide_over_z_trains(make_pair: MakePair, make_x: MakeX) -> None:
    """The clusters are enumerated in the model; all other pairs can still be used at the same time."""
    model, _ = make_pair()
    x = make_x(8)
    guide = AutoNormal(poutine.block(model, hide=["c_0", "c_1"]))
    svi = SVI(config_enumerate(model), guide, Adam({"lr": 0.05}), TraceEnum_ELBO(max_plate_nesting=1))
    losses = [svi.step(x) for _ in range(30)]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.trace` is deprecated:FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::torch.jit.TracerWarning",
)
def test_a_traced_loss_reads_alpha_beta_num_data_and_the_size_of_the_batch(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(num_data=40)
    jit = JitTraceEnum_ELBO(max_plate_nesting=1, ignore_jit_warnings=True)
    x = make_x(8)
    jit.loss_and_grads(model, guide, x)  # this runs the pair several times and so changes the random state
    for num, alpha, beta, num_data in (
        (8, [1.0, 1.0], [1.0, 1.0], 40),
        (8, [0.3, 0.7], [0.2, 0.9], 40),
        (3, [0.3, 0.7], [0.0, 0.9], 40),
        (5, [1.0, 1.0], [1.0, 1.0], 90),
        (5, [1.0, 1.0], [1.0, 1.0], None),
    ):
        model.alpha.copy_(torch.tensor(alpha))
        model.beta.copy_(torch.tensor(beta))
        model.num_data = num_data
        values = []
        for loss in (jit, TraceEnum_ELBO(max_plate_nesting=1)):
            pyro.set_rng_seed(1)
            values.append(loss.loss_and_grads(model, guide, x[:num]))
        assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_double_and_float_and_data_parallel_and_deep_copies_agree(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    pair, x = MFCVAE(model, guide), make_x(4)
    expected = [probs.clone() for probs in pair.assign(x)]
    single = copy.deepcopy(pair).float()
    with pytest.raises(InputError, match=r"expected x like the model, torch\.float32 on cpu, got torch\.float64"):
        FacetELBO().loss(single.model, single.guide, x)
    for other in (single, single.double()):
        for probs, value in zip(other.assign(x), expected, strict=True):
            torch.testing.assert_close(probs.double(), value, rtol=0, atol=1e-5)
    pyro.set_rng_seed(1)
    loss = FacetELBO()(model, guide)(x)
    pyro.set_rng_seed(1)
    assert torch.equal(torch.nn.DataParallel(FacetELBO()(model, guide), device_ids=[])(x), loss)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        (lambda x: 255 * x, r"from 0\.0 to 1\.0 for this likelihood, got values from"),
        (lambda x: 2 * x - 1, r"from 0\.0 to 1\.0 for this likelihood, got values from"),
        (lambda x: (255 * x).byte(), r"expected x as a floating-point tensor, got torch\.uint8"),
        (lambda x: x.float(), "expected x like the model"),
        (lambda x: torch.where(x > 0.5, torch.nan, x), "expected x without NaN, got some"),
        (lambda x: torch.where(x > 0.5, torch.inf, x), "expected finite values of x"),
        (lambda x: x[:0], "expected at least one item, got none"),
        (lambda x: x.flatten(1), r"expected x of shape \(N, 1, 2, 3\)"),
    ),
)
def test_data_that_do_not_fit_are_refused_everywhere(
    make_pair: MakePair, make_x: MakeX, change: Callable[[Tensor], Tensor], message: str
) -> None:
    model, guide = make_pair()
    wrong = change(make_x(9))
    with pyro.validation_enabled(False):
        for ask in (
            lambda: SVI(model, guide, Adam({"lr": 0.1}), FacetELBO()).step(wrong),
            lambda: SVI(model, guide, Adam({"lr": 0.1}), TraceEnum_ELBO(max_plate_nesting=1)).step(wrong),
            lambda: model(wrong),
            lambda: guide(wrong),
        ):
            with pytest.raises(InputError, match=message):
                ask()


def test_infinite_values_are_refused_also_if_elements_may_be_missing(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    model.missing = True
    x = make_x(4)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = torch.nan, torch.inf
    with pytest.raises(InputError, match="expected finite values of x"):
        FacetELBO().loss(model, guide, x)
    assert FacetELBO().loss(model, guide, x[:1]) > 0
