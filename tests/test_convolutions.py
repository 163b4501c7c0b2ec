import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pyro_mfcvae import InputError
from pyro_mfcvae.convolutions import Pyramid, ResidualBlock, down, recomputed, shrink, up


@pytest.mark.parametrize(
    ("side", "num_facets", "sides", "rungs"),
    [
        (32, 2, (32, 16, 8), (1, 2)),  # Falck et al. 2021
        (28, 2, (28, 14, 7), (1, 2)),
        (32, 1, (32, 16, 8), (2,)),
        (64, 2, (64, 32, 16, 8), (1, 3)),
        (128, 3, (128, 64, 32, 16, 8), (1, 2, 4)),
        (32, 3, (32, 16, 8, 4), (1, 2, 3)),
        (28, 5, (28, 14, 7, 3, 3, 3), (1, 2, 3, 4, 5)),
        (37, 2, (37, 18, 9, 4), (1, 3)),
        (6, 1, (6, 3), (1,)),
    ],
)
def test_sizes_and_rungs(side: int, num_facets: int, sides: tuple[int, ...], rungs: tuple[int, ...]) -> None:
    pyramid = Pyramid.build((3, side, side), num_facets, channels=(8,))
    assert tuple(shape[1:] for shape in pyramid.shapes) == tuple((s, s) for s in sides)
    assert pyramid.rungs == rungs
    assert [pyramid.halves(level) for level in range(1, len(sides))] == [
        there < here for here, there in pairwise(sides)
    ]


def test_channels_are_the_images_then_the_given_ones_the_last_for_all_further_levels() -> None:
    pyramid = Pyramid.build((3, 128, 100), 2, channels=(5, 7))
    assert pyramid.shapes == ((3, 128, 100), (5, 64, 50), (7, 32, 25), (7, 16, 12), (7, 8, 6))


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (6, 9), (3, 3)])
def test_up_restores_the_sizes_before_down(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    for halve in (True, False):
        small = down(3, 5, halve=halve).eval()(x)
        assert small.shape == (2, 5, *((size[0] // 2, size[1] // 2) if halve else size))
        assert up(5, 3, size=small.shape[2:], to=size)(small).shape == x.shape


def test_down_by_hand() -> None:
    block = down(1, 1)
    nn.init.ones_(block[0].weight)
    nn.init.zeros_(block[0].bias)
    x = torch.rand(4, 1, 4, 4)
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    sums = torch.stack([padded[..., i : i + 4, j : j + 4].sum((-1, -2)) for i in (0, 2) for j in (0, 2)], -1)
    normal = (sums - sums.mean()) / (sums.var(correction=0) + 1e-5).sqrt()
    expected = torch.where(normal > 0, normal, normal.exp() - 1).reshape(4, 1, 2, 2)
    torch.testing.assert_close(block(x), expected, rtol=0.0, atol=1e-12)


def test_a_residual_block_with_zero_weights_is_the_activation() -> None:
    block = ResidualBlock(3)
    nn.init.zeros_(block.block[-1].weight)
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(block(x), nn.functional.elu(x))


@pytest.mark.parametrize(("shape", "num_convolutions"), [((4, 16, 16), 2), ((4, 8, 8), 1), ((4, 3, 9), 0)])
def test_shrink_reduces_maps_to_four_pixels(shape: tuple[int, int, int], num_convolutions: int) -> None:
    module, num_features = shrink(shape)
    features = module(torch.rand(2, *shape))
    assert features.shape == (2, num_features)
    assert sum(isinstance(m, nn.Conv2d) for m in module.modules()) == num_convolutions
    assert num_features == 4 * math.prod(side >> num_convolutions for side in shape[1:])


def kept_elements(act: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The result of an action, and the number of elements that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = act()
    return result, sum(kept.values())


def test_recomputation_keeps_gradients_and_statistics_and_needs_less_memory() -> None:
    found = []
    for run in (lambda block, h: block(h), recomputed):
        torch.manual_seed(0)
        block = nn.Sequential(*down(2, 6), ResidualBlock(6), ResidualBlock(6))
        h = torch.rand(5, 2, 16, 16, requires_grad=True)
        for _ in range(2):  # the statistics continue from step to step
            result, num_kept = kept_elements(lambda run=run, block=block, h=h: run(block, h))
            result.square().mean().backward()
        grads = [h.grad, *(parameter.grad for parameter in block.parameters())]
        found.append((result.detach(), grads, list(block.buffers()), num_kept))
    (*plain, all_kept), (*again, few_kept) = found
    torch.testing.assert_close(again, plain, rtol=0, atol=1e-12)
    assert few_kept == 5 * 2 * 16 * 16  # the block's input
    assert all_kept > 9 * few_kept


def test_without_gradients_nothing_is_recomputed() -> None:
    block = down(2, 3)
    with torch.no_grad():
        result = recomputed(block, torch.rand(4, 2, 8, 8))
    assert result.grad_fn is None
    assert block[1].num_batches_tracked == 1


def test_errors() -> None:
    with pytest.raises(InputError, match=r"of at least 6 × 6 pixels, got the event shape \(20,\): use an MLP ladder"):
        Pyramid.build((20,), 2, channels=(8,))
    with pytest.raises(InputError, match=r"at least 6 × 6 pixels, got the event shape \(3, 5, 20\)"):
        Pyramid.build((3, 5, 20), 2, channels=(8,))
    with pytest.raises(InputError, match=r"expected numbers ≥ 1 in channels, at least one, got \(\): give one"):
        Pyramid.build((3, 32, 32), 2, channels=())
