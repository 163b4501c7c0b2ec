import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_mfcvae import Facet
from pyro_mfcvae.guides import (
    ConvLadderEncoder,
    MLPLadderEncoder,
    MultiFacetGuide,
)
from pyro_mfcvae.infer.initialization import initialize_data_dependent, initialize_glorot
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    ConvLadderDecoder,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
)

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
    model.alpha.zero_()  # a facet that is faded out is standardised as if it were faded in

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
        constant = output.std(0) < 1e-12  # a unit whose inputs are all 0 has no scale
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


def test_layers_without_bias_are_scaled(make_x: MakeX) -> None:
    """A ResNet has such layers before its batch norms. Their outputs get a standard deviation of 1 and keep their
    means.
    """
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
