"""A pair completely in bfloat16 or float16: its networks compute in this precision, its densities in float32."""

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.optim import SGD
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, ImportanceWeightedELBO, initialize_mixtures, to_inference_data
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    FlowHead,
    FullCovarianceHead,
    LowRankHead,
    MLPLadderEncoder,
    MultiFacetGuide,
    SampleAssignment,
)
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    FacetPrior,
    GaussianLikelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StandardNormalPrior,
    StudentTMixturePrior,
)

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
SHAPE = (1, 2, 3)


def make(
    prior: Callable[[Facet], FacetPrior] = MixturePrior, likelihood: Any = None, *, head: Any = None, rule: Any = None
) -> MFCVAE:
    torch.set_default_dtype(torch.float32)
    likelihood = likelihood or BernoulliLikelihood()
    out_shape = (*SHAPE, 4) if isinstance(likelihood, CategoricalLikelihood) else SHAPE
    sizes = {"rung_dims": (9, 10)}
    model = MultiFacetModel(
        [prior(f) for f in FACETS], MLPLadderDecoder(FACETS, out_shape, hidden_dim=8, **sizes), likelihood
    )
    heads = {} if head is None else {"head": head}
    encoder = MLPLadderEncoder(FACETS, SHAPE, head_init_scale=1.0, **sizes, **heads)
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder, assignment=rule))


PAIRS: dict[str, Callable[[], MFCVAE]] = {
    **{
        f"{covariance} covariance": lambda c=covariance: make(lambda f: MixturePrior(f, covariance=c))  # type: ignore[misc]
        for covariance in ("diagonal", "full", "tied", "spherical")
    },
    "Student-t": lambda: make(StudentTMixturePrior, rule=SampleAssignment()),
    "random parameters": lambda: make(
        lambda f: BayesianMixturePrior(f, covariance="full", random=("probs", "loc", "scale", "center"))
    ),
    "sticks": lambda: make(lambda f: BayesianMixturePrior(f, random=("probs",), stick_breaking=True)),
    "amortised rule": lambda: make(rule=AmortizedAssignment(FACETS)),
    "full q(z | x)": lambda: make(head=FullCovarianceHead),
    "low-rank q(z | x)": lambda: make(head=LowRankHead),
    "flow": lambda: make(head=FlowHead, rule=SampleAssignment()),
    "learned scale": lambda: make(likelihood=GaussianLikelihood(learn_scale=True)),
    "levels": lambda: make(likelihood=DiscretizedLogisticLikelihood()),
    "continuous Bernoulli": lambda: make(likelihood=ContinuousBernoulliLikelihood()),
    "Poisson": lambda: make(likelihood=PoissonLikelihood()),
    "negative binomial": lambda: make(likelihood=NegativeBinomialLikelihood()),
    "codes": lambda: make(likelihood=CategoricalLikelihood()),
}


def data_for(pair: MFCVAE) -> Tensor:
    codes = torch.randint(0, 4, (6, *SHAPE)).float()
    return codes if pair.model.likelihood.support(pair.model.decoder.out_shape).is_discrete else codes / 4


# One fast test for each solver or family of densities; the slow tests differ only in the likelihood or the shape of
# covariances.
SLOW = {
    "tied covariance",
    "spherical covariance",
    "low-rank q(z | x)",
    "levels",
    "Poisson",
    "negative binomial",
    "codes",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAIRS]
)
def test_svi_trains_and_queries_work(name: str) -> None:
    """Data are in bfloat16, or in float32 like the model's draws; answers are in float32."""
    pair = PAIRS[name]().bfloat16()
    model, guide, x = pair.model, pair.guide, data_for(pair)
    for data in (x, x.bfloat16()):
        for loss in (FacetELBO(), TraceEnum_ELBO(max_plate_nesting=1), ImportanceWeightedELBO(num_particles=2)):
            before = copy.deepcopy(pair.state_dict())
            value = SVI(model, guide, SGD({"lr": 1e-2}), loss).step(data)
            assert torch.tensor(value).isfinite()
            assert any(not torch.equal(before[key], tensor) for key, tensor in pair.state_dict().items())
        for answer in (
            *pair.assign(data),
            pair.log_evidence(data),
            pair.reconstruct(data),
            pair.elbo_terms(data).total,
        ):
            assert answer.dtype == torch.float32 and answer.isfinite().all()
    guide(Predictive(model, num_samples=2)(num=3)["x"][0])
    assert all(p.dtype == torch.bfloat16 for p in pair.parameters())


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
@pytest.mark.parametrize("name", ("diagonal covariance", "full covariance", "tied covariance", "Student-t"))
def test_densities_are_those_of_the_rounded_parameters(name: str, dtype: torch.dtype) -> None:
    """Constrained parameters, for example the degrees of freedom of a Student-t, are also rounded to 8 bits."""
    half = PAIRS[name]().to(dtype)
    single = copy.deepcopy(half).float()
    z = torch.randn(5, 2)
    torch.testing.assert_close(half.priors[0].log_prob(z), single.priors[0].log_prob(z), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.priors[0].log_weights(), single.priors[0].log_weights(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ("diagonal covariance", "full covariance", "full q(z | x)", "amortised rule"))
def test_answers_equal_those_of_the_same_pair_in_single_precision(name: str) -> None:
    """bfloat16 has 8 significant bits: after four layers answers differ by a few per cent."""
    half = PAIRS[name]().bfloat16()
    single, x = copy.deepcopy(half).float(), torch.rand(6, *SHAPE)
    for ours, theirs in zip(half.assign(x), single.assign(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.03)
    torch.testing.assert_close(half.reconstruct(x), single.reconstruct(x), rtol=0.05, atol=0.02)
    torch.testing.assert_close(half.elbo_terms(x).kl, single.elbo_terms(x).kl, rtol=0.05, atol=0.03)
    evidence = []
    for pair in (half, single):
        pyro.set_rng_seed(1)
        evidence.append(pair.log_evidence(x, num_samples=500))
    torch.testing.assert_close(*evidence, rtol=0.03, atol=0.05)


def test_only_the_encoder_or_the_decoder_in_half_precision() -> None:
    for part in ("encoder", "decoder"):
        pair, x = make(), torch.rand(4, *SHAPE)
        expected = pair.reconstruct(x)
        (pair.guide.encoder if part == "encoder" else pair.model.decoder).bfloat16()
        torch.testing.assert_close(pair.reconstruct(x), expected, rtol=0.05, atol=0.02)
        assert FacetELBO().loss(pair.model, pair.guide, x) > 0


def test_mixtures_are_fitted_and_draws_are_written_for_arviz() -> None:
    pair = make(lambda f: MixturePrior(f, covariance="full")).bfloat16()
    x = torch.rand(40, *SHAPE).bfloat16()
    initialize_mixtures(pair.model, pair.guide, x)
    assert pair.model.priors[0].loc.dtype == torch.bfloat16
    data = to_inference_data(pair, x, num_samples=30, num_simulated=10, labels={"half": torch.arange(40) % 2})
    assert data["observed_data"]["x"].dtype == data["posterior"]["z_0"].dtype == "float32"
    assert data["constant_data"]["label_half"].values[:4].tolist() == [0, 1, 0, 1]


def test_a_facet_without_clusters_has_a_density() -> None:
    prior = StandardNormalPrior(Facet(num_clusters=1, latent_dim=2)).bfloat16()
    assert prior().log_prob(torch.zeros(1, 2)).item() == pytest.approx(-1.8378771)
