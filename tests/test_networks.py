from abc import abstractmethod

import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_mfcvae.networks import AbstractPyroModule, broadcast_batches, mlp, weight_layers


def test_mlp_has_a_relu_after_every_layer() -> None:
    net = mlp((3, 5, 2))
    x = torch.randn(7, 3)
    first, second = net[0], net[2]
    hidden = (x @ first.weight.T + first.bias).clamp_min(0)
    torch.testing.assert_close(net(x), (hidden @ second.weight.T + second.bias).clamp_min(0), rtol=0.0, atol=1e-12)
    assert [type(layer) for layer in net] == [nn.Linear, nn.ReLU] * 2


def test_broadcast_batches_repeats_values_and_keeps_dimensions() -> None:
    a, b, c = torch.randn(4, 2), torch.randn(5, 1, 3), torch.randn(1)
    out = broadcast_batches([a, b, c])
    assert [tuple(z.shape) for z in out] == [(5, 4, 2), (5, 4, 3), (5, 4, 1)]
    for s in range(5):
        for n in range(4):
            assert torch.equal(out[0][s, n], a[n])
            assert torch.equal(out[1][s, n], b[s, 0])
            assert torch.equal(out[2][s, n], c)


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(RuntimeError, match="broadcast"):
        broadcast_batches([torch.zeros(4, 2), torch.zeros(3, 2)])


def test_weight_layers_finds_exactly_the_layers_with_weights() -> None:
    inner = mlp((2, 3))
    net = nn.ModuleList([inner, nn.LayerNorm(3), nn.Sequential(nn.Linear(3, 1), nn.ELU())])
    assert list(weight_layers(net)) == [inner[0], net[2][0]]


def test_abstract_modules_must_be_filled_in_and_have_names_of_their_own() -> None:
    class Part(AbstractPyroModule):
        @abstractmethod
        def width(self) -> int: ...

    class Filled(Part):
        def width(self) -> int:
            return 1

    with pytest.raises(TypeError, match="abstract"):
        Part()
    first, second = Filled(), Filled()
    assert isinstance(first, PyroModule)
    assert first._pyro_name != second._pyro_name
