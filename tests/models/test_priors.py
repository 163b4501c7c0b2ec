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
)
from pyro_mfcvae.models.priors import Theta

FACET = Facet(num_clusters=4, latent_dim=3)


class StudentPrior(FacetPrior):
    """A prior without closed form, as a user would write it."""

    def __init__(self, facet: Facet) -> None:
        super().__init__(facet)
        self.loc = nn.Parameter(torch.randn(facet.num_clusters, facet.latent_dim))

    def forward(self, theta: Theta | None = None) -> Mixture:
        return Mixture(torch.zeros(self.facet.num_clusters), dist.StudentT(4.0, self.loc, 1.0).to_event(1))


def test_a_prior_without_closed_form_is_reported_and_works_by_sampling(make_x: Callable[[int], Tensor]) -> None:
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


# --- tests of every prior: a new one is added by one line -----------------------------------------------------------

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


def test_every_supported_rule_trains_and_other_rules_are_refused(
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
        message = rf"for AnalyticAssignment, got the {name} of facet 1 without it: take MonteCarloAssignment or"
        with pytest.raises(InputError, match=message):
            MultiFacetGuide(model, encoder=guide.encoder, assignment=AnalyticAssignment())


def test_it_can_be_saved_loaded_and_used_in_single_precision(prior: FacetPrior) -> None:
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


def test_a_prior_is_replaced_at_its_place(make_pair: Callable[..., tuple]) -> None:
    """Pyro's own list would put the new prior last, so that facets of equal sizes exchange their priors."""
    model, guide = make_pair(3)
    old, other = list(model.priors), StudentTMixturePrior(model.facets[0])
    model.priors[0] = other
    assert all(a is b for a, b in zip(model.priors, (other, *old[1:]), strict=True))
    assert [prior.facet for prior in model.priors] == list(model.facets)
    with pytest.raises(InputError, match="expected a prior of Facet"):
        model.priors[0] = old[1]
    assert model.global_sites == []
    model.priors[1] = BayesianMixturePrior(model.facets[1], random=("probs",))
    assert model.global_sites == ["probs_1"]
    with pytest.raises(InputError, match=r"expected values of \['probs_1'\], got none: .* build a new guide"):
        guide.typical_priors()
    again = MultiFacetGuide(model, encoder=guide.encoder, assignment=SampleAssignment())
    assert FacetELBO().loss(model, again, torch.rand(2, 1, 2, 3)) > 0
