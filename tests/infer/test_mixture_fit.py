import copy
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from separated_clusters import FACET, MEANS, PROBS, separated
from torch import Tensor, nn

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import (
    LadderEncoder,
    MultiFacetGuide,
    SampleAssignment,
)
from pyro_mfcvae.infer.initialization import initialize_data_dependent
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.models import (
    FacetPrior,
    GaussianLikelihood,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    VampPrior,
)
from pyro_mfcvae.models.fits import Covariance, FitSettings
from pyro_mfcvae.models.generative import WRONG_MODEL
from pyro_mfcvae.models.priors import Theta


class KnownEncoder(LadderEncoder):
    """q(z_j | x) = Normal(the j-th slice of x, 1e-3)."""

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        parts = x.split([facet.latent_dim for facet in self.facets], -1)
        return [dist.Normal(part, 1e-3).to_event(1) for part in parts]

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


def known_pair(priors: Sequence[FacetPrior]) -> tuple[MultiFacetModel, MultiFacetGuide]:
    facets = [prior.facet for prior in priors]
    num_inputs = sum(facet.latent_dim for facet in facets)
    decoder = MLPLadderDecoder(facets, (num_inputs,), rung_dims=(4,) * len(facets), hidden_dim=4)
    model = MultiFacetModel(priors, decoder, GaussianLikelihood())
    return model, MultiFacetGuide(model, encoder=KnownEncoder(facets, (num_inputs,)))


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))
@pytest.mark.parametrize("learn_weights", (True, False))
def test_a_separated_mixture_is_recovered(covariance: Covariance, learn_weights: bool) -> None:
    """The fit gives exactly the moments of the clusters, since at this distance EM's responsibilities are 0 and 1."""
    prior = MixturePrior(FACET, covariance=covariance, learn_weights=learn_weights)
    model, guide = known_pair([prior])
    before = {name: id(p) for name, p in model.named_parameters()}
    x = separated(3000)
    initialize_mixtures(model, guide, x)

    found = (prior.loc - MEANS[:, None]).square().sum(-1).argmin(-1)  # our cluster that matches their k-th cluster
    assert sorted(found.tolist()) == [0, 1, 2]
    nearest = (x - MEANS[:, None]).square().sum(-1).argmin(0)
    for k, i in enumerate(found.tolist()):
        members = x[nearest == k]
        torch.testing.assert_close(prior.loc[i].detach(), members.mean(0), rtol=0.0, atol=1e-3)
        expected = members.T.cov(correction=0)
        if covariance == "diagonal":
            expected = expected.diagonal().diag()
        elif covariance == "spherical":
            expected = expected.diagonal().mean() * torch.eye(2)
        fitted = prior().component(torch.tensor(i))
        if covariance == "tied":
            groups = [x[nearest == i] for i in range(3)]
            expected = sum(len(g) * g.T.cov(correction=0) for g in groups) / len(x)  # type: ignore[assignment]
        full = fitted.covariance_matrix if prior.has_scale_tril else fitted.variance.diag()
        torch.testing.assert_close(full.detach(), expected, rtol=0.0, atol=2e-3)
    weights = PROBS if learn_weights else torch.full((3,), 1 / 3)
    torch.testing.assert_close(prior().log_weights().exp()[found].detach(), weights, rtol=0.0, atol=1e-6)
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_a_given_variance_replaces_the_fitted_one() -> None:
    prior = MixturePrior(FACET, covariance="full")
    model, guide = known_pair([prior])
    initialize_mixtures(model, guide, separated(300), variance=0.01)
    torch.testing.assert_close(prior.scale_tril.detach(), 0.1 * torch.eye(2).expand(3, 2, 2))
    assert (prior.loc[:, None] - MEANS).square().sum(-1).min(0).values.max() < 0.1


def test_mixtures_are_fitted_to_draws_or_with_a_given_variance_to_means() -> None:
    prior = MixturePrior(Facet(num_clusters=1, latent_dim=2), covariance="full")
    model, guide = known_pair([prior])
    x = torch.randn(300, 2)
    initialize_mixtures(model, guide, x, variance=0.01)
    torch.testing.assert_close(prior.loc[0].detach(), x.mean(0), rtol=0.0, atol=1e-12)
    pyro.set_rng_seed(0)
    initialize_mixtures(model, guide, x)
    pyro.set_rng_seed(0)
    (z,) = (q.sample() for q in guide.posteriors(x))
    torch.testing.assert_close(prior.loc[0].detach(), z.mean(0), rtol=0.0, atol=1e-12)
    covariance = (prior.scale_tril @ prior.scale_tril.mT)[0].detach()
    torch.testing.assert_close(covariance, z.T.cov(correction=0) + 1e-4 * torch.eye(2), rtol=0.0, atol=1e-10)


def test_the_encoder_sees_about_a_thousand_items_at_once_and_never_one() -> None:
    model, guide = known_pair([MixturePrior(FACET)])
    sizes: list[int] = []
    guide.encoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    initialize_mixtures(model, guide, separated(2001))
    assert sizes == [667, 667, 667]


def test_only_the_chosen_facets_are_fitted_and_the_seed_decides() -> None:
    priors = [MixturePrior(FACET), MixturePrior(FACET)]
    model, guide = known_pair(priors)
    before = [{name: p.detach().clone() for name, p in prior.named_parameters()} for prior in priors]
    x = torch.cat([separated(300), separated(300).flip(0)], -1)
    initialize_mixtures(model, guide, x, facets=[])
    initialize_mixtures(model, guide, x, facets=(j for j in [1]))
    assert all(torch.equal(p, before[0][name]) for name, p in priors[0].named_parameters())
    assert not any(torch.equal(p, before[1][name]) for name, p in priors[1].named_parameters())

    z = torch.randn(300, 2)  # there are no clusters to find, so the result of EM depends on its start
    starts = []
    for seed in (0, 0, 1):
        priors[0].fit(z, FitSettings(seed=seed))
        starts.append(priors[0].loc.detach().clone())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_custom_prior_is_fitted_by_its_method() -> None:
    class LaplacePrior(FacetPrior):
        def __init__(self, facet: Facet) -> None:
            super().__init__(facet)
            self.loc = nn.Parameter(torch.zeros(3, 2))

        def forward(self, theta: Theta | None = None) -> Mixture:
            return Mixture(torch.zeros(3), dist.Laplace(self.loc, 1.0).to_event(1))

        @torch.no_grad()
        def fit(self, z: Tensor, settings: FitSettings) -> None:
            assert settings.seed == 7 and settings.encoder_inputs is not None
            assert torch.equal(settings.encoder_inputs(torch.tensor([4])), x[4:5])
            self.loc.copy_(torch.stack([z[(z - mean).square().sum(-1) < 16].median(0).values for mean in MEANS]))

    prior, x = LaplacePrior(FACET), separated(300)
    model = MultiFacetModel([prior], MLPLadderDecoder([FACET], (2,), rung_dims=(4,)), GaussianLikelihood())
    guide = MultiFacetGuide(model, encoder=KnownEncoder([FACET], (2,)), assignment=SampleAssignment())
    initialize_mixtures(model, guide, x, seed=7)
    torch.testing.assert_close(prior.loc.detach(), MEANS, rtol=0.0, atol=0.3)


def test_errors() -> None:
    model, guide = known_pair([MixturePrior(FACET)])
    with pytest.raises(
        InputError, match="expected at least as many items as the 3 components of a mixture, got 2: give more"
    ):
        initialize_mixtures(model, guide, separated(2))
    imagined = VampPrior(FACET, encoder=guide.encoder, j=0, pseudo_inputs=separated(3))
    with pytest.raises(InputError, match="the one that the VampPrior of facet 0 reads, got another: pass one encoder"):
        known_pair([imagined])
    model = MultiFacetModel([imagined], model.decoder, GaussianLikelihood())
    guide = MultiFacetGuide(model, encoder=guide.encoder)
    with pytest.raises(
        InputError, match="expected at least as many items as the 3 components of a mixture, got 2: give more"
    ):
        initialize_mixtures(model, guide, separated(2))

    class StrangePrior(FacetPrior):
        def forward(self, theta: Theta | None = None) -> Mixture:
            return Mixture(torch.zeros(3), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))

    model, guide = known_pair([StrangePrior(FACET)])
    with pytest.raises(
        InputError, match=r"got a StrangePrior without a method fit\(z, settings\) for facet 0: give it one, or leave"
    ):
        initialize_mixtures(model, guide, separated(30))


@pytest.mark.parametrize("initialize", [initialize_mixtures, initialize_data_dependent])
def test_a_guide_of_a_copied_model_is_refused(
    initialize: Callable[..., None], make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
) -> None:
    model, guide = make_pair()
    with pytest.raises(InputError, match=re.escape(WRONG_MODEL)):
        initialize(copy.deepcopy(model), guide, torch.rand(20, 1, 2, 3))


@pytest.mark.parametrize("initialize", [initialize_mixtures, initialize_data_dependent])
def test_the_data_are_read_and_checked_as_elsewhere(
    initialize: Callable[..., None], make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
) -> None:
    pixels = torch.randint(0, 256, (20, 1, 2, 3), dtype=torch.uint8)
    states = []
    for x in (pixels / 255.0, pixels, pixels.numpy(), (pixels / 255.0).float().numpy()):
        pyro.set_rng_seed(0)
        model, guide = make_pair()
        initialize(model, guide, x)
        states.append({**model.state_dict(prefix="model."), **guide.state_dict(prefix="guide.")})
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-4, atol=1e-4)
    nan = torch.where(pixels > 200, torch.nan, pixels / 255.0)
    for x, message in (
        (pixels.double(), "expected values of x from 0.0 to 1.0"),
        (nan, "expected x without NaN"),
        (pixels[:, 0], r"expected x of shape \(N, 1, 2, 3\), got \(20, 2, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            initialize(model, guide, x)
    with pytest.raises(InputError, match=r"expected .* items .*got 1"):
        initialize(model, guide, pixels[:1])


@pytest.mark.parametrize("facets", (-1, 2, [0, 5]))
def test_only_existing_facets_can_be_fitted(
    facets: Any, make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
) -> None:
    x = torch.rand(20, 1, 2, 3)
    with pytest.raises(InputError, match=r"expected a facet from 0 to 1, got (-1|2|5): choose one of them"):
        initialize_mixtures(*make_pair(), x, facets=facets)
    with pytest.raises(InputError, match="expected the items whose clusters are known, got none: pass items=…"):
        initialize_mixtures(*make_pair(), x, known={0: [0] * 20})
