import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    FullCovarianceHead,
    GaussianHead,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    PosteriorHead,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    BernoulliLikelihood,
    FacetPrior,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    StandardNormalPrior,
    StudentTMixturePrior,
    VampPrior,
    register_closed_form,
)
from pyro_mfcvae.models.fits import Covariance
from pyro_mfcvae.models.mixtures import SelectedComponent
from pyro_mfcvae.models.priors import Theta

FACET = Facet(num_clusters=4, latent_dim=3)
PROBS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
every_covariance = pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))


def positive_definite() -> Tensor:
    spread = torch.randn(4, 3, 3)
    return spread @ spread.mT + 0.2 * torch.eye(3)


def shaped(covariance: Covariance, full: Tensor) -> Tensor:
    """What of a full covariance a prior keeps."""
    variance = full.diagonal(dim1=-2, dim2=-1)
    match covariance:
        case "full":
            return full
        case "diagonal":
            return torch.diag_embed(variance)
        case "spherical":
            return variance.mean(-1)[:, None, None] * torch.eye(3)
        case "tied":
            return full.mean(0).expand(4, 3, 3)


def covariance_of(prior: MixturePrior) -> Tensor:
    if prior.has_scale_tril:
        return (prior.scale_tril @ prior.scale_tril.mT).expand(4, 3, 3)
    return torch.diag_embed(prior.scale.square().expand(4, 3))


@every_covariance
@pytest.mark.parametrize("learn_weights", (True, False))
def test_starting_values(covariance: Covariance, learn_weights: bool) -> None:
    prior = MixturePrior(Facet(num_clusters=60, latent_dim=20), covariance=covariance, learn_weights=learn_weights)
    bound = math.sqrt(6 / (60 + 20))
    assert prior.loc.abs().max() <= bound
    # Uniform(±b) has standard deviation b / sqrt(3); 1200 draws give it to 2 %: within 10 % is 5 standard errors.
    assert prior.loc.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    torch.testing.assert_close(prior().log_weights().exp(), torch.full((60,), 1 / 60))
    unit = dist.MultivariateNormal(prior.loc, torch.eye(20))
    z = torch.randn(5, 20)
    torch.testing.assert_close(prior().log_prob(z), unit.log_prob(z.unsqueeze(-2)))


@every_covariance
def test_parameters_are_the_documented_ones(covariance: Covariance) -> None:
    shapes = {name: tuple(p.shape) for name, p in MixturePrior(FACET, covariance=covariance).named_parameters()}
    spread = {"diagonal": ("scale", (4, 3)), "spherical": ("scale", (4, 1)), "full": ("scale_tril", (4, 3, 3))}
    spread |= {"tied": ("scale_tril", (1, 3, 3))}
    name, shape = spread[covariance]
    assert shapes == {"loc": (4, 3), "logits": (4,), f"{name}_unconstrained": shape}
    fixed = MixturePrior(FACET, covariance=covariance, learn_weights=False)
    assert "logits" not in dict(fixed.named_parameters())
    assert torch.equal(dict(fixed.named_buffers())["logits"], torch.zeros(4))
    assert not fixed.learns_weights


@every_covariance
def test_set_mixture_round_trip(covariance: Covariance) -> None:
    prior = MixturePrior(FACET, covariance=covariance)
    before = {name: id(p) for name, p in prior.named_parameters()}
    loc, full = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, full, probs=PROBS)
    torch.testing.assert_close(prior.loc.detach(), loc)
    torch.testing.assert_close(covariance_of(prior).detach(), shaped(covariance, full))
    torch.testing.assert_close(prior().log_weights().exp().detach(), PROBS)
    assert {name: id(p) for name, p in prior.named_parameters()} == before

    prior.set_mixture(loc, full)
    torch.testing.assert_close(prior().log_weights().exp().detach(), torch.full((4,), 0.25))


def test_set_mixture_refuses_weights_where_they_are_fixed_and_changes_nothing() -> None:
    prior = MixturePrior(FACET, learn_weights=False)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    with pytest.raises(InputError, match=r"weights are fixed at 1/K, got weights: leave them out"):
        prior.set_mixture(torch.randn(4, 3), positive_definite(), probs=PROBS)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


@every_covariance
def test_densities_are_those_of_the_mixture(covariance: Covariance) -> None:
    prior = MixturePrior(FACET, covariance=covariance)
    loc, full = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, full, probs=PROBS)
    reference = torch.distributions.MultivariateNormal(loc, shaped(covariance, full))
    z, c = torch.randn(6, 3), torch.tensor([0, 3, 1, 2, 2, 0])
    expected = reference.log_prob(z.unsqueeze(-2))
    torch.testing.assert_close(prior().log_prob(z), expected)
    torch.testing.assert_close(prior().log_prob(z.expand(5, 6, 3)), expected.expand(5, 6, 4))
    torch.testing.assert_close(prior().component(c).log_prob(z), expected[range(6), c])
    torch.testing.assert_close(prior().component(c).mean, loc[c])
    assert (prior().components().batch_shape, prior().components().event_shape) == ((4,), (3,))
    assert prior().component(torch.zeros(2, 6, dtype=torch.long)).batch_shape == (2, 6)


@every_covariance
def test_expected_log_prob(covariance: Covariance) -> None:
    """Minus half the trace of Sigma_c⁻¹ diag(scale²) for each cluster, whatever the shape of the batch."""
    prior = MixturePrior(FACET, covariance=covariance)
    full = positive_definite()
    prior.set_mixture(torch.randn(4, 3), full)
    precision = torch.linalg.inv(shaped(covariance, full)).diagonal(dim1=-2, dim2=-1)
    for batch in ((6,), (2, 6)):
        loc, scale = torch.randn(*batch, 3), torch.rand(*batch, 3)
        drop = prior().log_prob(loc) - prior().expected_log_prob_under(dist.Normal(loc, scale).to_event(1))
        torch.testing.assert_close(drop, (scale.square().unsqueeze(-2) * precision).sum(-1) / 2)


class Sharp(dist.Normal):  # type: ignore[misc]
    """A density of one's own below a Gaussian."""

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Laplace(self.loc, self.scale).log_prob(value)


class LaplacePrior(MixturePrior):
    """An overridden density below a Gaussian mixture."""

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, spread).to_event(1)


class SharpPrior(MixturePrior):
    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return Sharp(loc, spread).to_event(1)


@pytest.mark.parametrize("kind", (LaplacePrior, SharpPrior))
def test_an_overridden_density_inherits_no_closed_form(kind: type[MixturePrior]) -> None:
    prior = kind(FACET)
    q = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    assert not any(prior.has_closed_form(covariance) for covariance in ("diagonal", "full", None))
    with pytest.raises(InputError, match=f"got {kind.__name__[:-5]} components and a Normal q"):
        prior().expected_log_prob_under(q)
    model = MultiFacetModel([prior], MLPLadderDecoder([FACET], (2,), rung_dims=(4,)), BernoulliLikelihood())
    encoder = MLPLadderEncoder([FACET], (2,), rung_dims=(4,))
    with pytest.raises(InputError, match=f"AnalyticAssignment needs .* which the {kind.__name__} of facet 0"):
        MultiFacetGuide(model, encoder=encoder)


def test_a_posterior_of_a_subclass_has_no_closed_form() -> None:
    with pytest.raises(InputError, match="got Normal components and a Sharp q"):
        MixturePrior(FACET)().expected_log_prob_under(Sharp(torch.zeros(2, 3), 1.0).to_event(1))


def test_a_registered_closed_form_is_used() -> None:
    """E|z - m| of a Gaussian z is the mean of a folded normal: sqrt(2/pi) s exp(-d²/2s²) + d erf(d / (s sqrt 2))."""

    class Peak(dist.Laplace):  # type: ignore[misc]
        pass

    @register_closed_form(Peak, "diagonal")
    def _(components: dist.Independent, mean: Tensor, scale: Tensor) -> Tensor:
        p, s = components.base_dist, scale.unsqueeze(-2)
        d = mean.unsqueeze(-2) - p.loc
        folded = math.sqrt(2 / math.pi) * s * (-d.square() / (2 * s**2)).exp() + d * torch.erf(d / (s * math.sqrt(2)))
        return (-folded / p.scale - (2 * p.scale).log()).sum(-1)

    mixture = Mixture(torch.zeros(4), Peak(torch.randn(4, 3), 0.7).to_event(1))
    assert mixture.has_closed_form("diagonal") and not mixture.has_closed_form("full")
    q = dist.Normal(torch.randn(6, 3), 0.5).to_event(1)
    values = mixture.log_prob(q.sample((20_000,)))
    error = values.std(0) / 20_000**0.5
    assert ((values.mean(0) - mixture.expected_log_prob_under(q)).abs() < 5 * error).all()


def test_a_mixture_has_no_subclasses_and_checks_its_shapes() -> None:
    with pytest.raises(TypeError, match="Mixture has no subclasses: pass other components"):
        type("Mine", (Mixture,), {})
    with pytest.raises(
        InputError, match=r"expected components of batch shape \(K,\) = \(4,\) .* got \(4, 3\) and \(\)"
    ):
        Mixture(torch.zeros(4), dist.Normal(torch.zeros(4, 3), 1.0))
    with pytest.raises(InputError, match=r"got \(5,\) and \(3,\)"):
        Mixture(torch.zeros(4), dist.Normal(torch.zeros(5, 3), 1.0).to_event(1))


def test_components_of_any_family_are_selected_alike() -> None:
    """The general road, by gathering, against the rows of the parameters: moments, densities, draws and gradients."""
    loc, c = torch.randn(4, 3, requires_grad=True), torch.tensor([[0, 3], [2, 1], [0, 0]])
    selected = SelectedComponent(dist.Laplace(loc, 0.7).to_event(1), c)
    direct = dist.Laplace(loc[c], 0.7).to_event(1)
    z = torch.randn(5, 3, 2, 3)
    assert (selected.batch_shape, selected.event_shape) == ((3, 2), (3,))
    for actual, expected in ((selected.mean, direct.mean), (selected.variance, direct.variance)):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(selected.log_prob(z), direct.log_prob(z))
    torch.testing.assert_close(selected.expand((5, 3, 2)).log_prob(z), direct.log_prob(z))
    draws = selected.rsample((20_000,))
    assert draws.shape == (20_000, 3, 2, 3)
    assert ((draws.mean(0) - loc[c]).abs() < 6 * 0.7 * math.sqrt(2 / 20_000)).all()
    (gradient,) = torch.autograd.grad(draws.sum(), loc)
    torch.testing.assert_close(gradient, 20_000.0 * torch.tensor([3.0, 1.0, 1.0, 1.0])[:, None].expand(4, 3))


def test_an_unknown_covariance_is_refused() -> None:
    with pytest.raises(InputError, match="expected covariance 'diagonal', 'full', 'spherical' or 'tied', got 'round'"):
        MixturePrior(FACET, covariance="round")  # type: ignore[arg-type]


class StudentPrior(FacetPrior):
    """A prior as a user would write it, with no closed form."""

    def __init__(self, facet: Facet) -> None:
        super().__init__(facet)
        self.loc = nn.Parameter(torch.randn(facet.num_clusters, facet.latent_dim))

    def forward(self, theta: Theta | None = None) -> Mixture:
        return Mixture(torch.zeros(self.facet.num_clusters), dist.StudentT(4.0, self.loc, 1.0).to_event(1))


def test_a_prior_without_closed_form_says_so_and_works_by_sampling(make_x: Callable[[int], Tensor]) -> None:
    facets = (FACET,)
    model = MultiFacetModel(
        [StudentPrior(FACET)], MLPLadderDecoder(facets, (1, 2, 3), rung_dims=(5,)), BernoulliLikelihood()
    )
    encoder = MLPLadderEncoder(facets, (1, 2, 3), rung_dims=(5,))
    guide = MultiFacetGuide(model, encoder=encoder, assignment=MonteCarloAssignment(3))
    x = make_x(4)
    with pytest.raises(
        InputError, match=r"got StudentT components and a Normal q.*MonteCarloAssignment.*TraceEnum_ELBO"
    ):
        FacetELBO(closed_form=True).loss(model, guide, x)
    losses = []
    for loss in (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO(closed_form=False)):
        pyro.set_rng_seed(1)
        losses.append(loss.loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


def test_student_t_by_its_formula() -> None:
    """log p = lgamma((v + D)/2) - lgamma(v/2) - D/2 log(v pi) - log|L| - (v + D)/2 log(1 + |L⁻¹ (z - loc)|² / v)."""
    prior = StudentTMixturePrior(FACET, df=3.5)
    loc, covariance = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, covariance, probs=PROBS)
    torch.testing.assert_close(prior().components().variance.detach(), covariance.diagonal(dim1=-2, dim2=-1))
    full = covariance * 1.5 / 3.5
    z = torch.randn(6, 3)
    difference = z[:, None] - loc
    distance = torch.einsum("nkd,kde,nke->nk", difference, torch.linalg.inv(full), difference)
    constant = math.lgamma((3.5 + 3) / 2) - math.lgamma(3.5 / 2) - 1.5 * math.log(3.5 * math.pi)
    expected = constant - torch.logdet(full) / 2 - (3.5 + 3) / 2 * torch.log1p(distance / 3.5)
    torch.testing.assert_close(prior().log_prob(z).detach(), expected)


def test_student_t_approaches_the_gaussian() -> None:
    student, gaussian = StudentTMixturePrior(FACET, df=1e5), MixturePrior(FACET, covariance="full")
    loc, full, z = torch.randn(4, 3), positive_definite(), torch.randn(6, 3)
    for prior in (student, gaussian):
        prior.set_mixture(loc, full)
    torch.testing.assert_close(student().log_prob(z), gaussian().log_prob(z), rtol=1e-3, atol=1e-3)


def test_standard_normal() -> None:
    prior = StandardNormalPrior(Facet(num_clusters=1, latent_dim=3))
    z, scale = torch.randn(6, 3), torch.rand(6, 3)
    expected = -1.5 * math.log(2 * math.pi) - z.square().sum(-1, keepdim=True) / 2
    torch.testing.assert_close(prior().log_prob(z), expected)
    torch.testing.assert_close(
        prior().expected_log_prob_under(dist.Normal(z, scale).to_event(1)),
        expected - scale.square().sum(-1, keepdim=True) / 2,
    )
    assert list(prior.parameters()) == []
    with pytest.raises(InputError, match=r"expected num_clusters=1 .* got 4: set it to 1, or take a MixturePrior"):
        StandardNormalPrior(FACET)


@pytest.mark.parametrize("df", (2.0, math.nan))
def test_degrees_of_freedom_are_checked(df: float) -> None:
    with pytest.raises(InputError, match=f"expected df > 2, .* got {df}: pass more"):
        StudentTMixturePrior(FACET, df=df)


# --- what holds for every prior: a new one joins by one line --------------------------------------------------------

OTHER = Facet(num_clusters=2, latent_dim=2)


def encoder_over(facet: Facet, head: type[PosteriorHead] = GaussianHead) -> MLPLadderEncoder:
    return MLPLadderEncoder([OTHER, facet], (1, 2, 3), rung_dims=(9, 10), head_init_scale=1.0, head=head)


PRIORS: dict[str, Callable[[], FacetPrior]] = {
    **{
        covariance: lambda covariance=covariance: MixturePrior(FACET, covariance=covariance)
        for covariance in ("diagonal", "spherical", "full", "tied")
    },
    "fixed_weights": lambda: MixturePrior(FACET, learn_weights=False),
    "student_t": lambda: StudentTMixturePrior(FACET),
    "standard_normal": lambda: StandardNormalPrior(Facet(num_clusters=1, latent_dim=3)),
    "of_a_user": lambda: StudentPrior(FACET),
    "bayesian": lambda: BayesianMixturePrior(FACET),
    "bayesian_full": lambda: BayesianMixturePrior(FACET, covariance="full"),
    "bayesian_means": lambda: BayesianMixturePrior(FACET, covariance="spherical", random=("loc",)),
    "stick_breaking": lambda: BayesianMixturePrior(FACET, covariance="tied", random=("probs",), stick_breaking=True),
    "vamp": lambda: VampPrior(FACET, encoder=encoder_over(FACET), j=1, pseudo_inputs=torch.rand(4, 1, 2, 3)),
    "vamp_full": lambda: VampPrior(
        FACET, encoder=encoder_over(FACET, FullCovarianceHead), j=1, pseudo_inputs=torch.rand(4, 1, 2, 3)
    ),
}


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest) -> FacetPrior:
    prior = PRIORS[request.param]()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def pair_with(prior: FacetPrior) -> tuple[MultiFacetModel, MultiFacetGuide]:
    other = MixturePrior(OTHER)
    facets = (other.facet, prior.facet)
    decoder = MLPLadderDecoder(facets, (1, 2, 3), rung_dims=(9, 10), hidden_dim=8)
    model = MultiFacetModel([other, prior], decoder, BernoulliLikelihood())
    encoder = prior._encoder[0] if isinstance(prior, VampPrior) else encoder_over(prior.facet)
    rule = None if prior.has_closed_form() else MonteCarloAssignment(4)
    return model, MultiFacetGuide(model, encoder=encoder, assignment=rule)


def test_shapes(prior: FacetPrior) -> None:
    num_clusters, latent_dim = prior.facet.num_clusters, prior.facet.latent_dim
    assert prior().log_weights().shape == (num_clusters,)
    torch.testing.assert_close(prior().log_weights().exp().sum(), torch.tensor(1.0))
    components = prior().components()
    assert (components.batch_shape, components.event_shape) == ((num_clusters,), (latent_dim,))
    c = torch.randint(num_clusters, (5, 7))
    assert prior().component(c).sample().shape == (5, 7, latent_dim)
    assert prior().log_prob(torch.randn(5, 7, latent_dim)).shape == (5, 7, num_clusters)


def test_draws_come_from_their_clusters_and_in_their_shares(prior: FacetPrior) -> None:
    """Shares and means of 20,000 draws within 5 standard errors: fails for 1 seed in 100,000."""
    c, z = prior().sample(20_000)
    assert (c.shape, z.shape) == ((20_000,), (20_000, 3))
    for k, probability in enumerate(prior().log_weights().exp().tolist()):
        own = z[c == k]
        assert abs(len(own) / 20_000 - probability) <= 5 * (probability * (1 - probability) / 20_000) ** 0.5
        mean = prior().component(torch.tensor(k)).mean
        assert ((own.mean(0) - mean).abs() < 5 * own.std(0) / len(own) ** 0.5).all()


def test_component_and_log_prob_agree(prior: FacetPrior) -> None:
    z = torch.randn(6, 3)
    for k in range(prior.facet.num_clusters):
        torch.testing.assert_close(prior().component(torch.full((6,), k)).log_prob(z), prior().log_prob(z)[:, k])


def test_draws_agree_with_the_density(prior: FacetPrior) -> None:
    """E_p[q(z) / p(z)] = 1 for a narrow density q around a mean: 5 standard errors, fails for 1 seed in 500,000."""
    c = torch.zeros(40_000, dtype=torch.long)
    component = prior().component(c)
    z = component.sample()
    narrow = dist.Normal(component.mean[0], 0.3).to_event(1)
    ratio = (narrow.log_prob(z) - component.log_prob(z)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 200


def test_the_closed_form_is_the_mean_of_the_density(prior: FacetPrior) -> None:
    """5 standard errors for 24 means: fails for 1 seed in 70,000."""
    loc, scale = torch.randn(6, 3), 0.2 + torch.rand(6, 3)
    if not prior.has_closed_form():
        with pytest.raises(InputError, match=r"whose E\[log p\(z \| c\)\] has a closed form, got"):
            prior().expected_log_prob_under(dist.Normal(loc, scale).to_event(1))
        return
    values = prior().log_prob(dist.Normal(loc, scale).sample((20_000,)))
    error = values.std(0) / 20_000**0.5
    assert (
        (values.mean(0) - prior().expected_log_prob_under(dist.Normal(loc, scale).to_event(1))).abs() < 5 * error
    ).all()


def test_gradients_reach_every_parameter_and_pyro_agrees(prior: FacetPrior, make_x: Callable[[int], Tensor]) -> None:
    model, guide = pair_with(prior)
    x = make_x(5)
    pyro.set_rng_seed(3)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).loss_and_grads(model, guide, x)
    parameters = dict([*model.named_parameters("model"), *guide.named_parameters("guide")])
    gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    assert gradients.keys() == parameters.keys()
    model.zero_grad()
    guide.zero_grad()
    pyro.set_rng_seed(3)
    assert FacetELBO(closed_form=False).loss_and_grads(model, guide, x) == pytest.approx(pyros, abs=1e-10)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=0.0, atol=1e-9)
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_every_rule_that_makes_sense_trains_and_the_others_are_refused(
    prior: FacetPrior, make_x: Callable[[int], Tensor]
) -> None:
    model, guide = pair_with(prior)
    rules = [MonteCarloAssignment(3), SampleAssignment(), VaDEAssignment(3), AmortizedAssignment(model.facets)]
    for rule in rules:
        other = MultiFacetGuide(model, encoder=guide.encoder, assignment=rule)
        closed_form = prior.has_closed_form() and not isinstance(rule, SampleAssignment)
        assert other.has_closed_form is closed_form
        assert math.isfinite(FacetELBO(closed_form=closed_form).loss_and_grads(model, other, make_x(4)))
    if prior.has_closed_form():
        MultiFacetGuide(model, encoder=guide.encoder, assignment=AnalyticAssignment())
    else:
        name = type(prior).__name__
        message = rf"AnalyticAssignment needs .* which the {name} of facet 1 has not: take MonteCarloAssignment or"
        with pytest.raises(InputError, match=message):
            MultiFacetGuide(model, encoder=guide.encoder, assignment=AnalyticAssignment())


def test_saved_and_loaded_and_in_single_precision(prior: FacetPrior) -> None:
    state = {name: value.clone() for name, value in prior.state_dict().items()}
    z = torch.randn(4, 3)
    before = prior().log_prob(z)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.mul_(0.7)
    prior.load_state_dict(state)
    torch.testing.assert_close(prior().log_prob(z), before, rtol=0.0, atol=0.0)
    if isinstance(prior, VampPrior):
        prior._encoder[0].float()
    single = prior.float()().log_prob(z.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), before, rtol=1e-3, atol=1e-3)


def test_a_cluster_without_weight_leaves_losses_and_gradients_finite(make_x: Callable[[int], Tensor]) -> None:
    """With weights (0.6, 0.4, 0) the objective is that of a mixture of the first two clusters."""
    x, losses = make_x(5), []
    loc, covariance = torch.randn(3, 2), torch.eye(2).expand(3, 2, 2)
    for num_clusters in (3, 2):
        pyro.set_rng_seed(5)
        prior = MixturePrior(Facet(num_clusters=num_clusters, latent_dim=2))
        decoder = MLPLadderDecoder([prior.facet], (1, 2, 3), rung_dims=(5,))
        model = MultiFacetModel([prior], decoder, BernoulliLikelihood())
        guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([prior.facet], (1, 2, 3), rung_dims=(5,)))
        for net in (model.decoder, guide.encoder):
            for i, parameter in enumerate(net.parameters()):
                torch.nn.init.constant_(parameter, 0.1 * (i + 1))
        prior.set_mixture(
            loc[:num_clusters], covariance[:num_clusters], probs=torch.tensor([0.6, 0.4, 0.0])[:num_clusters]
        )
        for rule in (AnalyticAssignment(), SampleAssignment(), VaDEAssignment(3), MonteCarloAssignment(3)):
            ruled = MultiFacetGuide(model, encoder=guide.encoder, assignment=rule)
            for elbo in (FacetELBO(closed_form=ruled.has_closed_form), TraceEnum_ELBO(max_plate_nesting=1)):
                model.zero_grad()
                pyro.set_rng_seed(6)
                losses.append(elbo.loss_and_grads(model, ruled, x))
                assert all(
                    p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *guide.parameters())
                )
    assert losses[:8] == pytest.approx(losses[8:], abs=1e-10)
