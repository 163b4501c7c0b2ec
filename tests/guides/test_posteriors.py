import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.infer import Predictive, TraceEnum_ELBO
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    ConvLadderEncoder,
    FlowHead,
    FullCovarianceHead,
    GaussianHead,
    LadderEncoder,
    LowRankHead,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    SeparateEncoder,
    VaDEAssignment,
)
from pyro_mfcvae.guides.encoders import MakeHead
from pyro_mfcvae.guides.posteriors import MIN_SCALE
from pyro_mfcvae.models import BernoulliLikelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel, StandardNormalPrior

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
SHAPE = (1, 6, 6)


def mlp(head: MakeHead) -> LadderEncoder:
    return MLPLadderEncoder(FACETS, SHAPE, rung_dims=(9, 10), head_init_scale=1.0, head=head)


# A new head or encoder is added by one line.
ENCODERS: dict[str, Callable[[], LadderEncoder]] = {
    "gaussian": lambda: mlp(GaussianHead),
    "full": lambda: mlp(FullCovarianceHead),
    "low_rank": lambda: mlp(partial(LowRankHead, rank=2)),
    "spline": lambda: mlp(FlowHead),
    "iaf": lambda: mlp(partial(FlowHead, transform=T.conditional_affine_autoregressive)),
    "conv_full": lambda: ConvLadderEncoder(FACETS, SHAPE, channels=(4,), head_init_scale=1.0, head=FullCovarianceHead),
    "separate": lambda: SeparateEncoder([MLPLadderEncoder([f], SHAPE, rung_dims=(7,)) for f in FACETS]),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> LadderEncoder:
    return ENCODERS[request.param]()


def make_pair(encoder: LadderEncoder) -> tuple[MultiFacetModel, MultiFacetGuide]:
    model = MultiFacetModel(
        [MixturePrior(FACETS[0]), MixturePrior(FACETS[1], covariance="full")],
        MLPLadderDecoder(FACETS, SHAPE, rung_dims=(9, 10), hidden_dim=8),
        BernoulliLikelihood(),
    )
    rule = None if encoder.covariance else SampleAssignment()
    return model, MultiFacetGuide(model, encoder=encoder, assignment=rule)


def test_shapes_and_draws(encoder: LadderEncoder) -> None:
    for j, posterior in enumerate(encoder(torch.rand(5, *SHAPE))):
        assert (posterior.batch_shape, posterior.event_shape) == ((5,), (FACETS[j].latent_dim,))
        z = posterior.rsample((7,))
        assert posterior.log_prob(z).shape == (7, 5)
        assert posterior.mean.shape == (5, FACETS[j].latent_dim)


def test_the_density_integrates_to_one(encoder: LadderEncoder) -> None:
    """The sum of the density over a fine grid in the two dimensions of facet 0 is 1. No transform has cached these
    points.
    """
    posterior = encoder(torch.rand(1, *SHAPE))[0]
    centre, width = posterior.sample((2000,)).mean(0)[0], 8.0
    steps = torch.linspace(-width, width, 401)
    grid = torch.cartesian_prod(steps, steps)[:, None] + centre
    mass = posterior.log_prob(grid).exp().sum() * (2 * width / 400) ** 2
    assert mass.item() == pytest.approx(1.0, abs=2e-3)


def test_gradients_reach_every_parameter_and_pyro_agrees(encoder: LadderEncoder) -> None:
    model, guide = make_pair(encoder.eval())
    x = torch.rand(5, *SHAPE)
    pyro.set_rng_seed(3)
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x)
    gradients = {name: p.grad.clone() for name, p in guide.named_parameters() if p.grad is not None}
    assert gradients.keys() == dict(guide.named_parameters()).keys()
    guide.zero_grad()
    pyro.set_rng_seed(3)
    assert FacetELBO(closed_form=False).loss_and_grads(model, guide, x) == pytest.approx(expected, abs=1e-9)
    for name, parameter in guide.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0.0, atol=1e-9)


def test_the_closed_form_is_the_mean_of_the_estimate_or_is_refused(encoder: LadderEncoder) -> None:
    """5 standard errors of 2000 draws."""
    model, guide = make_pair(encoder.eval())
    x = torch.rand(1, *SHAPE).expand(2000, *SHAPE)
    if encoder.covariance is None:
        assert not guide.has_closed_form
        with pytest.raises(
            InputError, match=r"expected a Gaussian q\(z \| x\) for the closed form of the KL, got another family"
        ):
            FacetELBO(closed_form=True).loss(model, guide, x)
        for rule in (AnalyticAssignment(), None):
            with pytest.raises(
                InputError, match=r"facet 0 without it for a q\(z \| x\) that is not Gaussian: take Monte"
            ):
                MultiFacetGuide(model, encoder=encoder, assignment=rule)
        with pytest.raises(
            InputError, match=r"expected a Gaussian q\(z \| x\), whose moments AmortizedAssignment reads, got"
        ):
            MultiFacetGuide(model, encoder=encoder, assignment=AmortizedAssignment(FACETS))
        return
    assert guide.has_closed_form
    closed = FacetELBO().terms(model, guide, x[:2]).kl[0]
    sampled = FacetELBO(closed_form=False).terms(model, guide, x).kl
    assert ((sampled.mean(0) - closed).abs() < 5 * sampled.std(0) / math.sqrt(2000)).all()


def test_every_supported_rule_trains(encoder: LadderEncoder) -> None:
    model, _ = make_pair(encoder)
    x = torch.rand(4, *SHAPE)
    for rule in (MonteCarloAssignment(3), SampleAssignment(), VaDEAssignment(3)):
        other = MultiFacetGuide(model, encoder=encoder, assignment=rule)
        assert math.isfinite(FacetELBO(closed_form=other.has_closed_form).loss_and_grads(model, other, x))
        TraceEnum_ELBO(max_plate_nesting=1, num_particles=2, vectorize_particles=True).loss_and_grads(model, other, x)


def test_the_pair_answers(encoder: LadderEncoder) -> None:
    pair = MFCVAE(*make_pair(encoder.eval()))
    x = torch.rand(4, *SHAPE)
    assert pair.reconstruct(x).shape == x.shape
    assert all(torch.allclose(p.sum(-1), torch.ones(4)) for p in pair.assign(x))
    assert pair.log_evidence(x, num_samples=8).isfinite().all()
    assert pair.elbo_terms(x).total.isfinite().all()
    assert Predictive(pair.model, guide=pair.guide, num_samples=3)(x)["z_1"].shape == (3, 4, 3)


def test_it_can_be_saved_loaded_and_used_in_single_precision(encoder: LadderEncoder) -> None:
    x = torch.rand(3, *SHAPE)
    encoder.eval()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    means = [posterior.mean for posterior in encoder(x)]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(0.5)
    encoder.load_state_dict(state)
    torch.testing.assert_close([posterior.mean for posterior in encoder(x)], means, rtol=0.0, atol=0.0)
    single = encoder.float()(x.float())
    assert all(posterior.rsample().dtype == torch.float32 for posterior in single)


def test_full_covariance_has_the_density_of_its_formula() -> None:
    head, h = FullCovarianceHead(5, 3), torch.randn(4, 5)
    raw = head.linear(h)
    scale_tril = raw[:, 3:].reshape(4, 3, 3).tril(-1)
    scale_tril = scale_tril + torch.diag_embed((raw[:, [3, 7, 11]].exp() + 1).log() + MIN_SCALE)
    torch.testing.assert_close(head(h).mean, raw[:, :3])
    torch.testing.assert_close(head(h).covariance_matrix, scale_tril @ scale_tril.mT)


def test_low_rank_covariance_has_the_density_of_its_formula() -> None:
    head, h = LowRankHead(5, 3, rank=2), torch.randn(4, 5)
    raw = head.linear(h)
    factor, scale = raw[:, 6:].reshape(4, 3, 2), (raw[:, 3:6].exp() + 1).log() + MIN_SCALE
    torch.testing.assert_close(head(h).mean, raw[:, :3])
    torch.testing.assert_close(head(h).covariance_matrix, factor @ factor.mT + torch.diag_embed(scale**2))


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))
def test_a_diagonal_covariance_gives_the_same_expectation_with_both_heads(
    covariance: str,
) -> None:
    prior = MixturePrior(FACETS[1], covariance=covariance)  # type: ignore[arg-type]
    loc, scale = torch.randn(5, 3), torch.rand(5, 3)
    q = dist.Normal(loc, scale).to_event(1)
    full_q = dist.MultivariateNormal(loc, torch.diag_embed(scale**2))
    full = prior().expected_log_prob_under(full_q)
    torch.testing.assert_close(full, prior().expected_log_prob_under(q), rtol=0.0, atol=1e-10)
    standard = StandardNormalPrior(Facet(num_clusters=1, latent_dim=3))
    full = standard().expected_log_prob_under(full_q)
    torch.testing.assert_close(full, standard().expected_log_prob_under(q), rtol=0.0, atol=1e-10)


def test_separate_encoders_share_nothing() -> None:
    encoders = [MLPLadderEncoder([f], SHAPE, rung_dims=(7,)) for f in FACETS]
    x = torch.rand(3, *SHAPE)
    for posterior, encoder in zip(SeparateEncoder(encoders)(x), encoders, strict=True):
        torch.testing.assert_close(posterior.mean, encoder(x)[0].mean)


def test_errors() -> None:
    with pytest.raises(InputError, match="expected 1 ≤ rank ≤ 3, the latent dimension, got 4"):
        LowRankHead(5, 3, rank=4)
    with pytest.raises(
        InputError, match="expected encoders of one facet each, got encoders of 2: make one encoder per facet"
    ):
        SeparateEncoder([mlp(GaussianHead)])
    mixed: list[Tensor | LadderEncoder] = [
        MLPLadderEncoder([FACETS[0]], SHAPE, rung_dims=(7,)),
        MLPLadderEncoder([FACETS[1]], SHAPE, rung_dims=(7,), head=FullCovarianceHead),
    ]
    message = r"expected encoders of the same in_shape and family of q\(z \| x\), got "
    with pytest.raises(
        InputError,
        match=message + r"\(1, .*\) with diagonal and \(1, .*\) with full: build all encoders in the same way$",
    ):
        SeparateEncoder(mixed)  # type: ignore[arg-type]
    mixed[1] = MLPLadderEncoder([FACETS[1]], SHAPE, rung_dims=(7,), head=FlowHead)
    with pytest.raises(
        InputError,
        match=message + r"\(1, .*\) with a flow and \(1, .*\) with diagonal: build all encoders in the same way$",
    ):
        SeparateEncoder(mixed)  # type: ignore[arg-type]


@pytest.mark.parametrize("loc", (0.0, 5.0, -40.0))
def test_a_flow_changes_a_posterior_at_every_location(loc: float) -> None:
    """At eps = ±1.5 the spline's density differs from the Gaussian's by the same factor at every location, and it
    is normalised.
    """
    torch.manual_seed(2)
    head = FlowHead(4, 1)
    torch.nn.init.constant_(head.linear.bias[:1], loc)
    with torch.no_grad():
        head.linear.weight[:2].zero_()
        head.linear.bias[1] = math.log(math.expm1(0.7))
        for parameter in head.transform.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    h = torch.ones(4)
    posterior, scale = head(h), 0.7 + MIN_SCALE
    z = loc + scale * torch.linspace(-6, 6, 20_001)[:, None]
    density = posterior.log_prob(z).exp()
    assert (density.sum() * (z[1] - z[0])).item() == pytest.approx(1.0, abs=1e-4)
    bend = posterior.log_prob(z) - dist.Normal(loc, scale).log_prob(z[:, 0])
    assert bend[(z[:, 0] - loc).abs() < 3 * scale].abs().max() > 0.2
    draws = posterior.rsample((4000,))
    mean = (density * z[:, 0]).sum() * (z[1] - z[0])
    assert (draws.mean() - mean.item()).abs() < 5 * draws.std() / 4000**0.5
