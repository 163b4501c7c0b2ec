import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import ConvLadderEncoder, LadderEncoder, MLPLadderEncoder
from pyro_mfcvae.guides.posteriors import MIN_SCALE, GaussianHead

MakeFacets = Callable[[int], tuple[Facet, ...]]


def test_three_facets_equal_values_computed_by_hand(make_facets: MakeFacets) -> None:
    encoder = MLPLadderEncoder(make_facets(3), (1, 2, 3), rung_dims=(5, 6, 7))
    for parameter in encoder.heads.parameters():
        nn.init.normal_(parameter)
    x = torch.rand(8, 1, 2, 3)
    h = x.reshape(8, 6)
    for j, posterior in enumerate(encoder(x)):
        rung, head = encoder.rungs[j][0], encoder.heads[j].linear
        h = (h @ rung.weight.T + rung.bias).clamp_min(0)
        features = h @ head.weight.T + head.bias
        loc, raw_scale = features[:, : 2 + j], features[:, 2 + j :]
        scale = (1 + raw_scale.exp()).log() + 1e-4
        torch.testing.assert_close(posterior.mean, loc, rtol=0.0, atol=1e-12)
        torch.testing.assert_close(posterior.stddev, scale, rtol=0.0, atol=1e-12)
        assert (posterior.batch_shape, posterior.event_shape) == ((8,), (2 + j,))


def test_the_scale_never_reaches_zero() -> None:
    head = GaussianHead(3, 2)
    nn.init.constant_(head.linear.bias, -1e4)
    assert torch.equal(head(torch.zeros(1, 3)).stddev, torch.full((1, 2), MIN_SCALE))


def test_any_batch_and_event_shape_is_accepted(make_facets: MakeFacets) -> None:
    encoder = MLPLadderEncoder(make_facets(2), (6,), rung_dims=(5, 7))
    x = torch.rand(3, 4, 6)
    for together, *apart in zip(encoder(x), *map(encoder, x), strict=True):
        assert together.batch_shape == (3, 4)
        torch.testing.assert_close(together.mean, torch.stack([q.mean for q in apart]), rtol=0.0, atol=1e-12)


def test_defaults_are_the_papers_mnist_encoder() -> None:
    encoder = MLPLadderEncoder([Facet(num_clusters=25, latent_dim=5)] * 2, (1, 28, 28))
    sizes = {name: tuple(p.shape) for name, p in encoder.named_parameters() if name.endswith("weight")}
    assert sizes == {
        "rungs.0.0.weight": (500, 784),
        "rungs.1.0.weight": (2000, 500),
        "heads.0.linear.weight": (10, 500),
        "heads.1.linear.weight": (10, 2000),
    }


def test_hidden_layers_are_all_except_the_heads(make_facets: MakeFacets) -> None:
    encoder = MLPLadderEncoder(make_facets(3), (4,), rung_dims=(5, 6, 7))
    assert list(encoder.hidden_layers()) == [rung[0] for rung in encoder.rungs]


def test_errors(make_facets: MakeFacets) -> None:
    with pytest.raises(InputError, match="expected one width per facet in rung_dims, 2 in all, got 1"):
        MLPLadderEncoder(make_facets(2), (4,), rung_dims=(5,))
    with pytest.raises(InputError, match="at least one facet"):
        MLPLadderEncoder([], (4,))
    with pytest.raises(TypeError, match="abstract"):
        LadderEncoder(make_facets(1), (4,))  # type: ignore[abstract]


def test_all_heads_but_the_deepest_can_start_without_information(make_facets: MakeFacets) -> None:
    *shallow, deepest = MLPLadderEncoder(make_facets(3), (1, 4, 4), rung_dims=(8, 8, 8))(torch.rand(5, 1, 4, 4))
    for posterior in shallow:
        assert (posterior.mean == 0).all()
        torch.testing.assert_close(posterior.stddev, torch.full_like(posterior.mean, math.log(2) + MIN_SCALE))
    assert deepest.mean.std(0).min() > 0


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.0])
def test_head_init_scale_multiplies_all_heads_except_the_deepest(make_facets: MakeFacets, gain: float) -> None:
    torch.manual_seed(0)
    plain = MLPLadderEncoder(make_facets(2), (4,), rung_dims=(5, 6), head_init_scale=1.0)
    torch.manual_seed(0)
    scaled = MLPLadderEncoder(make_facets(2), (4,), rung_dims=(5, 6), head_init_scale=gain)
    for (name, there), here in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        factor = gain if name.startswith("heads.0") else 1.0
        torch.testing.assert_close(here, factor * there, rtol=0.0, atol=0.0)


def test_head_init_scale_must_not_be_negative(make_facets: MakeFacets) -> None:
    with pytest.raises(InputError, match=r"expected head_init_scale ≥ 0, got -1"):
        MLPLadderEncoder(make_facets(2), (4,), rung_dims=(5, 6), head_init_scale=-1)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 37, 45), (2, 64, 64), (3, 128, 128)])
@pytest.mark.parametrize("num_facets", [1, 2, 5])
def test_convolutional_encoders_take_any_image_size_with_any_number_of_facets(
    make_facets: MakeFacets, shape: tuple[int, ...], num_facets: int
) -> None:
    encoder = ConvLadderEncoder(
        make_facets(num_facets), shape, channels=(2,), num_residual_blocks=1, head_init_scale=1.0
    )
    x = torch.rand(2, 3, *shape)
    single = [posterior.batch_shape for posterior in encoder.eval()(x[0, 0])]
    assert single == [()] * num_facets
    for j, posterior in enumerate(encoder.train()(x)):
        assert (posterior.batch_shape, posterior.event_shape) == ((2, 3), (2 + j,))
        assert posterior.mean.flatten(0, 1).std(0).min() > 0


def test_two_convolutional_facets_equal_values_computed_by_hand(make_facets: MakeFacets) -> None:
    encoder = ConvLadderEncoder(make_facets(2), (1, 16, 16), channels=(3, 4), head_init_scale=1.0)
    x = torch.rand(5, 1, 16, 16)
    # The ladder halves 16 pixels to 8 and, for the second facet, to 4. The rung of the first facet reduces its 8 pixels
    # to 4.
    first = encoder.levels[0](x)
    second = encoder.levels[1](first)
    assert (first.shape, second.shape) == ((5, 3, 8, 8), (5, 4, 4, 4))
    for posterior, rung, head, features in zip(encoder(x), encoder.rungs, encoder.heads, (first, second), strict=True):
        torch.testing.assert_close(posterior.mean, head(rung(features)).mean)
    assert [sum(isinstance(m, nn.Conv2d) for m in rung.modules()) for rung in encoder.rungs] == [1, 0]


def test_convolutional_hidden_layers_are_all_except_the_heads(make_facets: MakeFacets) -> None:
    encoder = ConvLadderEncoder(make_facets(2), (1, 16, 16), channels=(2,), num_residual_blocks=1)
    layers = {m for m in encoder.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert set(encoder.hidden_layers()) == layers - {head.linear for head in encoder.heads}
