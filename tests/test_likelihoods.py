import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_mfcvae import FacetELBO, InputError
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import BernoulliLikelihood, GaussianLikelihood, Likelihood, MultiFacetModel

OUTPUT = torch.tensor([[-2.0, 0.0, 0.5], [30.0, -30.0, 1.0]], dtype=torch.float64)
X = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 0.7]], dtype=torch.float64)


def test_bernoulli_takes_grey_values_as_probabilities() -> None:
    likelihood = BernoulliLikelihood()
    mean = OUTPUT.sigmoid()
    log_prob = X * OUTPUT.sigmoid().log() + (1 - X) * (-OUTPUT).sigmoid().log()
    torch.testing.assert_close(likelihood(OUTPUT).log_prob(X), log_prob, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(likelihood.mean(OUTPUT), mean)
    torch.testing.assert_close(likelihood(OUTPUT).mean, mean)
    assert set(likelihood(OUTPUT).sample((50,)).unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("learn_scale", (False, True))
@pytest.mark.parametrize("sigmoid_mean", (False, True))
def test_gaussian(learn_scale: bool, sigmoid_mean: bool) -> None:
    likelihood = GaussianLikelihood(scale=0.3, learn_scale=learn_scale, sigmoid_mean=sigmoid_mean)
    mean = 1 / (1 + (-OUTPUT).exp()) if sigmoid_mean else OUTPUT
    log_prob = -0.5 * ((X - mean) / 0.3) ** 2 - math.log(0.3) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(likelihood.mean(OUTPUT), mean)
    torch.testing.assert_close(likelihood(OUTPUT).mean, mean)
    torch.testing.assert_close(likelihood(OUTPUT).log_prob(X).detach(), log_prob)
    assert [name for name, _ in likelihood.named_parameters()] == ["scale_unconstrained"] * learn_scale
    assert "scale" in dict(likelihood.named_buffers()) or learn_scale


def test_the_learned_scale_gets_its_gradient(
    make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]], make_x: Callable[[int], Tensor]
) -> None:
    """d(-log p)/d log scale = 1 - ((x - mean) / scale)² per pixel, and log scale is what is optimised."""
    likelihood = GaussianLikelihood(scale=0.4, learn_scale=True)
    (likelihood(OUTPUT).log_prob(X).sum()).backward()
    expected = (((X - OUTPUT) / 0.4) ** 2 - 1).sum()
    torch.testing.assert_close(likelihood.scale_unconstrained.grad, expected)

    model, guide = make_pair(likelihood=GaussianLikelihood(learn_scale=True))
    FacetELBO().loss_and_grads(model, guide, make_x(4))
    assert model.likelihood.scale_unconstrained.grad.abs() > 0


@pytest.mark.parametrize("scale", (0.0, -1.0, math.nan))
def test_a_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(InputError, match=rf"scale of a Gaussian likelihood must be > 0, got {scale}"):
        GaussianLikelihood(scale=scale)


def test_a_likelihood_must_be_filled_in() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Likelihood()  # type: ignore[abstract]
