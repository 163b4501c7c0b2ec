"""Likelihoods p(x | z): what the decoder's output parametrises."""

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.networks import AbstractPyroModule


class Likelihood(AbstractPyroModule):
    """Elementwise distribution of the data given the decoder's output of the same shape."""

    @abstractmethod
    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """The distribution of every element; batch shape ``output.shape``, event shape ()."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | z], same shape as ``output``: what a reconstruction shows."""


class BernoulliLikelihood(Likelihood):
    """x ~ Bernoulli(logits=output). Grey values in [0, 1] are taken as probabilities, as is usual for MNIST:
    log p = x log sigmoid(output) + (1 - x) log sigmoid(-output)."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        # Grey values lie outside the Bernoulli's support {0, 1}; only this site goes without the check.
        return dist.Bernoulli(logits=output, validate_args=False)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()


class GaussianLikelihood(Likelihood):
    """x ~ Normal(mean(output), scale).

    Args:
        scale: standard deviation, in units of x; > 0. With ``learn_scale`` its initial value.
        learn_scale: make the scale one constrained parameter.
        sigmoid_mean: squash the mean into (0, 1): mean(output) = sigmoid(output); otherwise the identity.
    """

    scale: Any  # set as a PyroParam, read as a Tensor

    def __init__(self, *, scale: float = 1.0, learn_scale: bool = False, sigmoid_mean: bool = False) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"the scale of a Gaussian likelihood must be > 0, got {scale}")
        value = torch.tensor(float(scale))
        if learn_scale:
            self.scale = PyroParam(value, dist.constraints.positive)
        else:
            self.register_buffer("scale", value)
        self.sigmoid_mean = sigmoid_mean

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(output), self.scale)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid() if self.sigmoid_mean else output
