from collections.abc import Callable

import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import BernoulliLikelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]


def log_probs(model: MultiFacetModel, x: Tensor, cs: list[Tensor], zs: list[Tensor]) -> dict[str, Tensor]:
    """What the model's trace says of every site, weighted and scaled, summed over the items."""
    values = {cluster_site(j): c for j, c in enumerate(cs)} | {latent_site(j): z for j, z in enumerate(zs)}
    trace = poutine.trace(poutine.condition(model, data=values)).get_trace(x)
    trace.compute_log_prob()
    return {site: trace.nodes[site]["log_prob_sum"] for site in [*values, "x"]}


def by_hand(model: MultiFacetModel, x: Tensor, cs: list[Tensor], zs: list[Tensor]) -> dict[str, Tensor]:
    output = model.decoder(zs, model.alpha)
    expected = {"x": (x * output.sigmoid().log() + (1 - x) * (-output).sigmoid().log()).sum()}
    for j, (prior, c, z) in enumerate(zip(model.priors, cs, zs, strict=True)):
        expected[cluster_site(j)] = prior.logits.log_softmax(-1)[c].sum()
        sigma = prior.scale_tril @ prior.scale_tril.mT
        expected[latent_site(j)] = torch.distributions.MultivariateNormal(prior.loc[c], sigma[c]).log_prob(z).sum()
    return expected


def draw(model: MultiFacetModel, num: int) -> tuple[list[Tensor], list[Tensor]]:
    cs = [torch.randint(f.num_clusters, (num,)) for f in model.facets]
    return cs, [torch.randn(num, f.latent_dim) for f in model.facets]


def test_the_joint_density_is_the_generative_story(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair(covariance="full")
    model.alpha.copy_(torch.tensor([0.3, 1.0]))
    x, (cs, zs) = make_x(4), draw(model, 4)
    torch.testing.assert_close(log_probs(model, x, cs, zs), by_hand(model, x, cs, zs), rtol=0.0, atol=1e-10)


def test_beta_weighs_the_facets_and_num_data_scales_everything(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair(3, covariance="full", num_data=50)
    model.beta.copy_(torch.tensor([0.0, 0.5, 2.0]))
    x, (cs, zs) = make_x(4), draw(model, 4)
    weights = {"x": 1.0, "c_0": 0.0, "z_0": 0.0, "c_1": 0.5, "z_1": 0.5, "c_2": 2.0, "z_2": 2.0}
    expected = {site: weights[site] * 50 / 4 * value for site, value in by_hand(model, x, cs, zs).items()}
    torch.testing.assert_close(log_probs(model, x, cs, zs), expected, rtol=0.0, atol=1e-9)


def test_it_returns_the_data_or_draws_new_ones(make_pair: MakePair, make_x: MakeX) -> None:
    model, _ = make_pair()
    x = make_x(4)
    assert model(x) is x
    drawn = model(num=7)
    assert drawn.shape == (7, 1, 2, 3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_observation_is_the_likelihood_of_the_decoders_output(make_pair: MakePair) -> None:
    model, _ = make_pair()
    model.alpha.copy_(torch.tensor([0.0, 0.5]))
    zs = [torch.randn(5, 4, 2), torch.randn(5, 4, 3)]
    observation = model.observation(zs)
    assert (observation.batch_shape, observation.event_shape) == ((5, 4), (1, 2, 3))
    output = model.decoder(zs, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(model.decode(zs), output)
    torch.testing.assert_close(observation.mean, output.sigmoid())


def test_every_model_has_a_name_of_its_own(make_pair: MakePair) -> None:
    names = [make_pair()[0]._pyro_name for _ in range(3)]
    assert len(set(names)) == 3
    assert make_pair(name="mine")[0]._pyro_name == "mine"


def test_weights_are_buffers_that_start_at_one(make_pair: MakePair) -> None:
    model, _ = make_pair(3)
    buffers = dict(model.named_buffers())
    assert torch.equal(buffers["alpha"], torch.ones(3))
    assert torch.equal(buffers["beta"], torch.ones(3))


def test_errors(make_pair: MakePair, make_x: MakeX, make_facets: Callable[[int], tuple[Facet, ...]]) -> None:
    model, _ = make_pair()
    with pytest.raises(InputError, match=r"expected x of shape \(N, 1, 2, 3\), got \(4, 6\)"):
        model(make_x(4).flatten(1))
    with pytest.raises(InputError, match=r"expected the data x, or num ≥ 1 .* got num=None"):
        model()
    model.num_data = 3
    with pytest.raises(InputError, match="a batch of at most num_data=3 items, got 4"):
        model(make_x(4))
    shallow, deep = make_facets(2)
    decoder = MLPLadderDecoder((shallow, deep), (4,), rung_dims=(5, 6))
    with pytest.raises(InputError, match="expected priors and decoder of the same facets"):
        MultiFacetModel([MixturePrior(deep), MixturePrior(shallow)], decoder, BernoulliLikelihood())
