import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import (
    ConvLadderEncoder,
    FlowHead,
    LadderEncoder,
    MLPLadderEncoder,
    MultiFacetGuide,
    SampleAssignment,
)
from pyro_mfcvae.infer.initialization import initialize_data_dependent, initialize_glorot
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    ConvLadderDecoder,
    FacetPrior,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    VampPrior,
)
from pyro_mfcvae.models.fits import Covariance, FitSettings
from pyro_mfcvae.models.priors import Theta

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def test_glorot_bounds(make_pair: MakePair) -> None:
    model, guide = make_pair(3, covariance="full")
    initialize_glorot(nn.ModuleList([model, guide]))
    linear = [layer for net in (model, guide) for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert len(linear) == 7 + 6
    for layer in linear:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.6 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()
    for prior in model.priors:
        num_clusters, latent_dim = prior.loc.shape
        assert prior.loc.abs().max() <= math.sqrt(6 / (num_clusters + latent_dim))
        torch.testing.assert_close(prior.scale_tril.detach(), torch.eye(latent_dim).expand(num_clusters, -1, -1))
        torch.testing.assert_close(prior().log_weights().exp().detach(), torch.full((num_clusters,), 1 / num_clusters))


def test_data_dependent_pre_activations_have_mean_zero_and_deviation_one(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair(3)
    x = make_x(300)
    hidden = [*guide.encoder.hidden_layers(), *model.decoder.hidden_layers()]
    others = [head.linear for head in guide.encoder.heads] + [model.decoder.output]
    kept = [layer.weight.detach().clone() for layer in others]
    model.alpha.zero_()  # a facet that is faded out is standardised as it will be when it is there

    torch.manual_seed(5)
    initialize_data_dependent(model, guide, x)

    outputs: dict[nn.Module, Tensor] = {}
    handles = [layer.register_forward_hook(lambda layer, _, out: outputs.update({layer: out})) for layer in hidden]
    torch.manual_seed(5)
    with torch.no_grad():
        model.decoder([posterior.sample() for posterior in guide.posteriors(x)], torch.ones(3))
    for handle in handles:
        handle.remove()
    assert len(outputs) == 9
    for output in outputs.values():
        constant = output.std(0) < 1e-12  # a unit whose inputs are all dead has no scale
        torch.testing.assert_close(output.mean(0), torch.zeros(output.shape[-1]), rtol=0.0, atol=1e-10)
        torch.testing.assert_close(output.std(0)[~constant], torch.ones(int((~constant).sum())), rtol=0.0, atol=1e-10)
        assert constant.sum() <= 1
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(others, kept, strict=True))
    assert not any(layer._forward_hooks for layer in hidden)


def test_maps_of_convolutions_are_standardised_over_items_and_places() -> None:
    facets = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=3, latent_dim=2))
    shape = (2, 16, 16)
    decoder = ConvLadderDecoder(facets, shape, channels=(3, 4), num_residual_blocks=1)
    model = MultiFacetModel([MixturePrior(f) for f in facets], decoder, BernoulliLikelihood())
    encoder = ConvLadderEncoder(facets, shape, channels=(3, 4), num_residual_blocks=1, head_init_scale=1.0)
    guide = MultiFacetGuide(model, encoder=encoder)
    x = torch.rand(50, *shape)
    torch.manual_seed(5)
    initialize_data_dependent(model, guide, x)

    outputs: dict[nn.Module, Tensor] = {}
    for layer in (*encoder.hidden_layers(), *decoder.hidden_layers()):
        layer.register_forward_hook(lambda layer, _, out: outputs.update({layer: out.detach()}))
    torch.manual_seed(5)
    decoder([posterior.sample() for posterior in guide.posteriors(x)], torch.ones(2))
    assert len(outputs) == (2 + 2 * 2 + 1) + (2 + 2 * 2 + 1)
    for output in outputs.values():
        units = output.movedim(1, -1).flatten(0, -2)
        torch.testing.assert_close(units.mean(0), torch.zeros(units.shape[-1]), rtol=0.0, atol=1e-10)
        torch.testing.assert_close(units.std(0), torch.ones(units.shape[-1]), rtol=0.0, atol=1e-10)


def test_a_unit_that_is_constant_is_only_shifted(make_pair: MakePair, make_x: MakeX) -> None:
    model, guide = make_pair()
    layer = next(guide.encoder.hidden_layers())
    with torch.no_grad():
        layer.weight[0] = 0.0
    initialize_data_dependent(model, guide, make_x(50))
    assert not layer.weight[0].any()
    assert layer.bias[0].abs() < 1e-12


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
    model = MultiFacetModel(priors, decoder, BernoulliLikelihood())
    return model, MultiFacetGuide(model, encoder=KnownEncoder(facets, (num_inputs,)))


FACET = Facet(num_clusters=3, latent_dim=2)
MEANS = torch.tensor([[-8.0, 0.0], [0.0, 8.0], [8.0, 0.0]], dtype=torch.float64)
SPREADS = torch.tensor([[[0.5, 0.0], [0.3, 0.2]], [[0.4, 0.0], [0.0, 0.4]], [[0.2, 0.0], [-0.4, 0.6]]]).double()
PROBS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def separated(num: int) -> Tensor:
    """Points of three clusters that are far apart."""
    c = torch.arange(num) % 10
    c = (c >= 2).long() + (c >= 5).long()
    return MEANS[c] + (SPREADS[c] @ torch.randn(num, 2, 1)).squeeze(-1)


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))
@pytest.mark.parametrize("learn_weights", (True, False))
def test_a_separated_mixture_is_recovered(covariance: Covariance, learn_weights: bool) -> None:
    """Exactly the clusters' own moments, since at this distance EM's responsibilities are 0 and 1."""
    prior = MixturePrior(FACET, covariance=covariance, learn_weights=learn_weights)
    model, guide = known_pair([prior])
    before = {name: id(p) for name, p in model.named_parameters()}
    x = separated(3000)
    initialize_mixtures(model, guide, x)

    found = (prior.loc - MEANS[:, None]).square().sum(-1).argmin(-1)  # the cluster of ours that is the k-th of theirs
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


def test_variance_overrules_what_was_fitted() -> None:
    prior = MixturePrior(FACET, covariance="full")
    model, guide = known_pair([prior])
    initialize_mixtures(model, guide, separated(300), variance=0.01)
    torch.testing.assert_close(prior.scale_tril.detach(), 0.1 * torch.eye(2).expand(3, 2, 2))
    assert (prior.loc[:, None] - MEANS).square().sum(-1).min(0).values.max() < 0.1


def test_means_are_fitted_to_on_demand() -> None:
    prior = MixturePrior(Facet(num_clusters=1, latent_dim=2), covariance="full")
    model, guide = known_pair([prior])
    x = torch.randn(300, 2)
    initialize_mixtures(model, guide, x, to_means=True)
    torch.testing.assert_close(prior.loc[0].detach(), x.mean(0), rtol=0.0, atol=1e-12)
    covariance = (prior.scale_tril @ prior.scale_tril.mT)[0].detach()
    torch.testing.assert_close(covariance, x.T.cov(correction=0) + 1e-4 * torch.eye(2), rtol=0.0, atol=1e-10)
    initialize_mixtures(model, guide, x)
    assert (prior.loc[0] - x.mean(0)).abs().max() > 1e-6


UNITS = torch.tensor([0.1, 10.0], dtype=torch.float64)


class UnevenEncoder(KnownEncoder):
    """q(z | x) = Normal(x, UNITS)."""

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        return [dist.Normal(x, UNITS).to_event(1)]


def uneven_pair(prior: FacetPrior) -> tuple[MultiFacetModel, MultiFacetGuide]:
    model, guide = known_pair([prior])
    guide.encoder = UnevenEncoder([prior.facet], (2,))
    return model, guide


@pytest.mark.parametrize("covariance", ("diagonal", "full", "tied"))
def test_k_means_does_not_part_the_widest_dimension_in_units_of_the_posterior(covariance: Covariance) -> None:
    """Four clusters a unit apart along one dimension, and 20 units wide along the other."""
    x = torch.stack([torch.arange(400) % 4 + 0.0, 20 * torch.randn(400)], -1)
    clusters, prior = torch.arange(400) % 4, MixturePrior(Facet(num_clusters=4, latent_dim=2), covariance=covariance)
    model, guide = uneven_pair(prior)

    def purity(*, posterior_units: bool) -> float:
        initialize_mixtures(model, guide, x, posterior_units=posterior_units)
        found = (prior().log_weights() + prior().log_prob(x)).argmax(-1)
        return sum(torch.bincount(clusters[found == k]).max().item() for k in found.unique()) / 400

    assert purity(posterior_units=True) == 1.0
    assert purity(posterior_units=False) < 0.7


def test_units_are_undone_exactly() -> None:
    """One component has the moments of the draws whatever they were measured in; spherical ones are fitted as ever."""
    z = torch.randn(300, 2) * torch.tensor([1.0, 20.0])
    prior = MixturePrior(Facet(num_clusters=1, latent_dim=2), covariance="full")
    prior.fit(z, FitSettings(unit=UNITS))
    torch.testing.assert_close(prior.loc[0].detach(), z.mean(0), rtol=0.0, atol=1e-12)
    least = UNITS.square() / UNITS.square().mean() * 1e-4  # 1e-4 on average over the dimensions
    covariance = (prior.scale_tril @ prior.scale_tril.mT)[0].detach()
    torch.testing.assert_close(covariance, z.T.cov(correction=0) + least.diag(), rtol=0.0, atol=1e-9)

    spherical = [MixturePrior(FACET, covariance="spherical") for _ in range(2)]
    spherical[0].fit(z, FitSettings())
    spherical[1].fit(z, FitSettings(unit=UNITS))
    assert torch.equal(spherical[0].loc, spherical[1].loc)
    assert torch.equal(spherical[0].scale, spherical[1].scale)


@pytest.mark.parametrize("covariance", ("diagonal", "full", "tied"))
def test_known_points_are_measured_in_the_same_units(covariance: Covariance) -> None:
    """In units of mean square 1, so that the least variance is the same, the fit to stretched points is stretched."""
    unit = torch.tensor([0.1, 1.99**0.5])
    z, points, clusters = (
        separated(300),
        MEANS.repeat_interleave(4, 0) + 0.1 * torch.randn(12, 2),
        torch.arange(12) // 4,
    )
    plain, stretched = (MixturePrior(FACET, covariance=covariance) for _ in range(2))
    plain.fit(z, FitSettings(known=(points, clusters)))
    stretched.fit(z * unit, FitSettings(unit=unit, known=(points * unit, clusters)))
    torch.testing.assert_close(stretched.loc, plain.loc * unit, rtol=0.0, atol=1e-10)
    expected = plain().log_prob(z) - unit.log().sum()  # so the covariances are stretched alike
    torch.testing.assert_close(stretched().log_prob(z * unit), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(stretched().log_weights(), plain().log_weights(), rtol=0.0, atol=1e-10)


def test_a_posterior_without_standard_deviations_has_no_units() -> None:
    facets = [FACET]
    decoder = MLPLadderDecoder(facets, (1, 2, 2), rung_dims=(4,), hidden_dim=4)
    encoder = MLPLadderEncoder(facets, (1, 2, 2), rung_dims=(4,), head=FlowHead)
    model = MultiFacetModel([MixturePrior(FACET)], decoder, BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=encoder, assignment=SampleAssignment())
    with pytest.raises(
        InputError, match=r"expected a Gaussian q\(z \| x\).* got another family: leave posterior_units=False"
    ):
        initialize_mixtures(model, guide, torch.rand(30, 1, 2, 2), posterior_units=True)


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

    z = torch.randn(300, 2)  # no clusters to find: where EM ends depends on its start
    starts = []
    for seed in (0, 0, 1):
        priors[0].fit(z, FitSettings(seed=seed))
        starts.append(priors[0].loc.detach().clone())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_no_component_starts_without_weight() -> None:
    """Ten clusters for two points that repeat: weights stay above 1 % of 1/K, variances above 1e-4."""
    prior = MixturePrior(Facet(num_clusters=10, latent_dim=2))
    z = torch.tensor([[0.0, 0.0], [5.0, 5.0]]).repeat(50, 1) + 1e-5 * torch.randn(100, 2)
    prior.fit(z, FitSettings())
    assert prior().log_weights().exp().min() > 0.0009
    assert prior.scale.square().min() > 0.99e-4


@pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))
def test_em_starts_at_what_is_known(covariance: Covariance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known: points of clusters 2 and 0, of four; the two others start at the centres of k-means with two clusters."""
    z = torch.cat([torch.randn(50, 2) - 9, torch.randn(50, 2) + 9])
    seen, clusters = torch.randn(7, 2), torch.tensor([2, 2, 2, -1, 0, 0, 0])
    prior = MixturePrior(Facet(num_clusters=4, latent_dim=2), covariance=covariance)
    settings = record_start(monkeypatch, prior, z, (seen, clusters))
    groups = [seen[4:], seen[:3]]
    assert torch.equal(settings["means_init"][:2], torch.stack([group.mean(0) for group in groups]))
    centres = sorted(settings["means_init"][2:].tolist())
    torch.testing.assert_close(torch.tensor(centres), torch.stack([z[:50].mean(0), z[50:].mean(0)]))
    pooled = sum((len(group) - 1) * group.T.cov() for group in groups) / 4 + 1e-4 * torch.eye(2)
    variances = pooled.diagonal()
    expected = {
        "full": pooled.inverse().expand(4, 2, 2),
        "tied": pooled.inverse(),
        "diagonal": (1 / variances).expand(4, 2),
        "spherical": (1 / variances.mean()).expand(4),
    }
    torch.testing.assert_close(settings["precisions_init"], expected[covariance])
    assert settings["weights_init"].tolist() == [0.25] * 4


def test_em_starts_as_ever_where_too_few_points_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four points of two clusters leave two degrees of freedom for a covariance in two dimensions."""
    seen, clusters = torch.randn(5, 2), torch.tensor([0, 0, 1, 1, -1])
    settings = record_start(monkeypatch, MixturePrior(FACET), torch.randn(50, 2), (seen, clusters))
    assert not {"means_init", "precisions_init", "weights_init"} & settings.keys()


def record_start(
    monkeypatch: pytest.MonkeyPatch, prior: MixturePrior, z: Tensor, seen: tuple[Tensor, Tensor]
) -> dict[str, Tensor]:
    """What scikit-learn's mixture is made with."""
    made: dict[str, Tensor] = {}

    class Recording(GaussianMixture):
        def fit(self, points: NDArray[np.float64]) -> GaussianMixture:
            given = {name: value for name, value in self.get_params().items() if isinstance(value, np.ndarray)}
            made.update({name: torch.tensor(value) for name, value in given.items()})
            return super().fit(points)

    monkeypatch.setattr("sklearn.mixture.GaussianMixture", Recording)
    prior.fit(z, FitSettings(known=seen))
    return made


def test_few_known_points_find_clusters_that_k_means_does_not() -> None:
    """Two long stripes side by side, which k-means cuts across; four points of each are known."""
    c = torch.arange(400) % 2
    z = torch.stack([5 * torch.randn(400), 2.0 * c + 0.4 * torch.randn(400)], -1)
    prior = MixturePrior(Facet(num_clusters=2, latent_dim=2), covariance="full")
    purities = []
    for seen in (None, (z[:8], c[:8])):
        prior.fit(z, FitSettings(known=seen))
        share = ((prior().log_weights() + prior().log_prob(z)).argmax(-1) == c).double().mean().item()
        purities.append(max(share, 1 - share))
    assert purities[0] < 0.6
    assert purities[1] > 0.98


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("covariance", ("full", "tied", "diagonal", "spherical"))
@pytest.mark.parametrize("width", (1.0, 300.0, 1e5))
def test_points_almost_on_a_line_are_fitted(covariance: Covariance, width: float, dtype: torch.dtype) -> None:
    """float32 rounds a covariance of 9e10 and 1e-4 to one that is not positive definite; its factor stays valid."""
    z = width * torch.randn(400, 1) @ torch.tensor([[1.0, 2.0, -1.0]]) + 1e-3 * torch.randn(400, 3)
    prior = MixturePrior(Facet(num_clusters=4, latent_dim=3), covariance=covariance).to(dtype)
    prior.fit(z.to(dtype), FitSettings())
    assert prior().log_prob(z.to(dtype)).isfinite().all()
    if covariance == "full":
        spread = (prior.scale_tril.double() @ prior.scale_tril.double().mT).diagonal(dim1=-2, dim2=-1).detach()
        torch.testing.assert_close(spread[:, 1] / spread[:, 0], torch.full((4,), 4.0), rtol=0.02, atol=0.0)


def test_an_indefinite_covariance_is_refused() -> None:
    covariance = torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(3, 2, 2)
    with pytest.raises(InputError, match="expected positive definite covariances, got one that is not: compute it in"):
        MixturePrior(FACET, covariance="full").set_mixture(torch.zeros(3, 2), covariance)


def test_a_prior_of_ones_own_is_fitted_by_its_hook() -> None:
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
    model = MultiFacetModel([prior], MLPLadderDecoder([FACET], (2,), rung_dims=(4,)), BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=KnownEncoder([FACET], (2,)), assignment=SampleAssignment())
    initialize_mixtures(model, guide, x, seed=7)
    torch.testing.assert_close(prior.loc.detach(), MEANS, rtol=0.0, atol=0.3)


def test_layers_without_bias_are_scaled(make_x: MakeX) -> None:
    """As those of a ResNet, whose batch norms follow: deviation 1, means as they fall."""
    facets = (Facet(num_clusters=3, latent_dim=2),)

    class Unbiased(MLPLadderEncoder):
        def __init__(self) -> None:
            super().__init__(facets, (1, 2, 3), rung_dims=(5,))
            self.rungs[0][0] = nn.Linear(6, 5, bias=False)

    encoder = Unbiased()
    decoder = MLPLadderDecoder(facets, (1, 2, 3), rung_dims=(5,), hidden_dim=4)
    model = MultiFacetModel([MixturePrior(facets[0])], decoder, BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=encoder)
    x = make_x(200)
    initialize_data_dependent(model, guide, x)
    units = encoder.rungs[0][0](x.flatten(1))
    torch.testing.assert_close(units.std(0), torch.ones(5), rtol=0.0, atol=1e-10)
    initialize_glorot(encoder)
    assert encoder.rungs[0][0].weight.abs().max() <= math.sqrt(6 / 11)


def test_errors() -> None:
    model, guide = known_pair([MixturePrior(FACET)])
    with pytest.raises(
        InputError, match="expected at least as many items as the 3 components of a mixture, got 2: give more"
    ):
        initialize_mixtures(model, guide, separated(2))
    imagined = VampPrior(FACET, encoder=guide.encoder, j=0, pseudo_inputs=separated(3))
    with pytest.raises(InputError, match="the one that the VampPrior of facet 0 reads, got another: pass one encoder"):
        known_pair([imagined])
    model = MultiFacetModel([imagined], model.decoder, BernoulliLikelihood())
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
