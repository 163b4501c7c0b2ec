from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.models import ConvLadderDecoder, LadderDecoder, MLPLadderDecoder
from pyro_mfcvae.models.decoders import ladder_dims

MakeFacets = Callable[[int], tuple[Facet, ...]]


def affine(net: nn.Sequential, h: Tensor) -> Tensor:
    """relu(W h + b)."""
    layer = net[0]
    return (h @ layer.weight.T + layer.bias).clamp_min(0)


def test_three_facets_equal_values_computed_by_hand(make_facets: MakeFacets) -> None:
    decoder = MLPLadderDecoder(make_facets(3), (1, 2, 3), rung_dims=(5, 6, 7), hidden_dim=4, merge_weight=0.3)
    zs = [torch.randn(8, 2 + j) for j in range(3)]
    alpha = torch.tensor([0.2, 0.5, 0.9])
    rungs, backbone = decoder.rungs, decoder.backbone
    h = affine(backbone[2], 0.9 * affine(rungs[2], zs[2]))
    h = affine(backbone[1], h + 0.3 * 0.5 * affine(rungs[1], zs[1]))
    h = affine(backbone[0], h + 0.3 * 0.2 * affine(rungs[0], zs[0]))
    expected = (h @ decoder.output.weight.T + decoder.output.bias).reshape(8, 1, 2, 3)
    torch.testing.assert_close(decoder(zs, alpha), expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("faded", range(3))
@pytest.mark.parametrize("kind", [MLPLadderDecoder, ConvLadderDecoder])
def test_alpha_zero_removes_only_one_facet(make_facets: MakeFacets, kind: type[LadderDecoder], faded: int) -> None:
    decoder = (
        MLPLadderDecoder(make_facets(3), (4,), rung_dims=(8, 8, 8), hidden_dim=8)
        if kind is MLPLadderDecoder
        else ConvLadderDecoder(make_facets(3), (1, 16, 16), channels=(4,))
    )
    alpha = torch.ones(3)
    alpha[faded] = 0
    zs = [torch.randn(8, 2 + j) for j in range(3)]
    output = decoder(zs, alpha)
    for j in range(3):
        other = decoder([torch.randn_like(z) if i == j else z for i, z in enumerate(zs)], alpha)
        assert torch.equal(other, output) is (j == faded)


def test_defaults_are_the_papers_mnist_decoder() -> None:
    facets = [Facet(num_clusters=25, latent_dim=5)] * 2
    decoder = MLPLadderDecoder(facets, (1, 28, 28))
    sizes = {name: tuple(p.shape) for name, p in decoder.named_parameters() if name.endswith("weight")}
    assert sizes == {
        "rungs.0.0.weight": (500, 5),
        "rungs.1.0.weight": (2000, 5),
        "backbone.0.0.weight": (500, 500),
        "backbone.1.0.weight": (500, 2000),
        "output.weight": (784, 500),
    }
    assert decoder.merge_weight == 0.1


def test_batch_shapes_broadcast(make_facets: MakeFacets) -> None:
    decoder = MLPLadderDecoder(make_facets(2), (2, 3), rung_dims=(5, 6), hidden_dim=4)
    shallow, deep = torch.randn(7, 1, 2), torch.randn(4, 3)
    output = decoder([shallow, deep], torch.ones(2))
    assert output.shape == (7, 4, 2, 3)
    for s in range(7):
        expected = decoder([shallow[s].expand(4, 2), deep], torch.ones(2))
        torch.testing.assert_close(output[s], expected, rtol=0.0, atol=1e-12)


def test_hidden_layers_are_all_except_the_last(make_facets: MakeFacets) -> None:
    decoder = MLPLadderDecoder(make_facets(3), (4,), rung_dims=(5, 6, 7))
    linear = {module for module in decoder.modules() if isinstance(module, nn.Linear)}
    hidden = list(decoder.hidden_layers())
    assert len(hidden) == 6
    assert set(hidden) == linear - {decoder.output}


def test_one_width_per_facet(make_facets: MakeFacets) -> None:
    assert ladder_dims(make_facets(3), None, "rung_dims") == (500, 500, 2000)
    assert ladder_dims(make_facets(1), None, "rung_dims") == (2000,)
    with pytest.raises(InputError, match="expected one width per facet in rung_dims, 2 in all, got 3"):
        MLPLadderDecoder(make_facets(2), (4,), rung_dims=(5, 6, 7))
    with pytest.raises(InputError, match="at least one facet"):
        MLPLadderDecoder([], (4,))


def test_a_decoder_without_forward_is_refused(make_facets: MakeFacets) -> None:
    with pytest.raises(TypeError, match="abstract"):
        LadderDecoder(make_facets(1), (4,))  # type: ignore[abstract]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 37, 45), (2, 64, 64), (3, 128, 128)])
@pytest.mark.parametrize("num_facets", [1, 2, 5])
def test_convolutional_decoders_give_any_image_size_with_any_number_of_facets(
    make_facets: MakeFacets, shape: tuple[int, ...], num_facets: int
) -> None:
    decoder = ConvLadderDecoder(make_facets(num_facets), shape, channels=(2,), num_residual_blocks=1, gated=True)
    zs = [torch.randn(3, 2 + j) for j in range(num_facets)]
    assert decoder(zs, torch.ones(num_facets)).shape == (3, *shape)
    assert decoder.eval()([z[0] for z in zs], torch.ones(num_facets)).shape == shape


def test_two_convolutional_facets_equal_values_computed_by_hand(make_facets: MakeFacets) -> None:
    decoder = ConvLadderDecoder(make_facets(2), (1, 16, 16), channels=(3, 4))
    shallow, deep = torch.randn(5, 2), torch.randn(5, 3)
    h = decoder.steps[1](0.9 * decoder.rungs[1](deep))  # 4 × 4 to 8 × 8
    assert h.shape == (5, 3, 8, 8)
    expected = decoder.steps[0](torch.cat([h, 0.4 * decoder.rungs[0](shallow)], 1))
    torch.testing.assert_close(decoder([shallow, deep], torch.tensor([0.4, 0.9])), expected)
    assert len(decoder.steps[0]) == 1  # no batch norm and no activation on the output


def test_a_gate_scales_the_map_of_deeper_facets(make_facets: MakeFacets) -> None:
    decoder = ConvLadderDecoder(make_facets(2), (1, 16, 16), channels=(3, 4), gated=True)
    shallow, deep = torch.randn(5, 2), torch.randn(5, 3)
    torch.nn.init.normal_(decoder.gates["1"][0].weight)
    h = decoder.steps[1](0.9 * decoder.rungs[1](deep))
    gate = (shallow @ decoder.gates["1"][0].weight.T).reshape(5, 3, 8, 8)
    expected = decoder.steps[0](torch.cat([h * (1 + 0.4 * gate), 0.4 * decoder.rungs[0](shallow)], 1))
    torch.testing.assert_close(decoder([shallow, deep], torch.tensor([0.4, 0.9])), expected)


def test_gates_start_open_and_the_deepest_facet_has_none(make_facets: MakeFacets) -> None:
    gated = ConvLadderDecoder(make_facets(3), (1, 16, 16), channels=(2,), gated=True)
    plain = ConvLadderDecoder(make_facets(3), (1, 16, 16), channels=(2,))
    missing = plain.load_state_dict(gated.state_dict(), strict=False)
    assert list(gated.gates) == ["1", "2"] and all(name.startswith("gates.") for name in missing.unexpected_keys)
    zs, alpha = [torch.randn(4, 2 + j) for j in range(3)], torch.tensor([0.3, 0.6, 1.0])
    assert torch.equal(gated(zs, alpha), plain(zs, alpha))


def test_convolutional_batch_shapes_broadcast(make_facets: MakeFacets) -> None:
    decoder = ConvLadderDecoder(make_facets(2), (1, 16, 16), channels=(2,)).eval()
    shallow, deep = torch.randn(7, 1, 2), torch.randn(4, 3)
    output = decoder([shallow, deep], torch.ones(2))
    assert output.shape == (7, 4, 1, 16, 16)
    torch.testing.assert_close(output[3], decoder([shallow[3].expand(4, 2), deep], torch.ones(2)))


def test_convolutional_hidden_layers_are_all_except_the_last(make_facets: MakeFacets) -> None:
    decoder = ConvLadderDecoder(make_facets(2), (1, 16, 16), channels=(2,), num_residual_blocks=1)
    layers = {m for m in decoder.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))}
    assert set(decoder.hidden_layers()) == layers - {decoder.steps[0][-1]}
