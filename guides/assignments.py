"""Assignment rules, which compute q(c_j | x) from the prior and q(z_j | x).

Writing A_c = log pi_c + E_q(z|x)[log p(z | c)], the ELBO's terms in q(c|x) are sum_c q_c (A_c - log q_c), which
q_c ∝ exp(A_c) maximises (Falck et al. 2021, theorem 1; log p(z) is the same for every c and cancels).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, check_facets
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.networks import AbstractModule, for_densities, like_parameters


class AssignmentRule(AbstractModule):
    """Maps facet j's prior, q(z_j | x) and a draw z_j to the normalised logits of q(c_j | x), (…, K_j)."""

    is_optimum: ClassVar[bool] = False
    """Whether the rule maximises the objective over q(c|x). The gradient through q(c|x) is then zero (envelope
    theorem), so q(c|x) is detached.
    """

    needs_closed_form: ClassVar[bool] = False
    """Whether the rule needs the prior's E[log p(z | c)]."""

    needs_draw: ClassVar[bool] = False
    """Whether the rule depends on the drawn z_j; the KL then has no closed form."""

    needs_moments: ClassVar[bool] = False
    """Whether the rule uses the mean and standard deviation of q(z_j | x), which must then be Gaussian."""

    @abstractmethod
    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        """log q(c_j = c | x) for every c.

        Args:
            j: the facet.
            prior: the prior of this facet, p(c) and p(z | c).
            posterior: q(z_j | x), batch shape (N,), event shape (D,).
            z: a draw from ``posterior``, (…, N, D).
        """


class AnalyticAssignment(AssignmentRule):
    """q(c|x) ∝ pi_c exp E_q(z|x)[log p(z | c)], with the expectation in closed form: the optimum over all q(c|x)."""

    is_optimum = True
    needs_closed_form = True

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        expected = prior.expected_log_prob_under(posterior)
        return (prior.log_weights() + expected).log_softmax(-1)


class MonteCarloAssignment(AssignmentRule):
    """q(c|x) ∝ pi_c exp (1/S) sum_s log p(z_s | c), z_s ~ q(z|x): for priors with no closed form.

    Args:
        num_samples: S ≥ 1.
    """

    def __init__(self, num_samples: int = 16) -> None:
        super().__init__()
        self.num_samples = _check_num_samples(num_samples)

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        draws = posterior.rsample((self.num_samples,))
        return (prior.log_weights() + prior.log_prob(draws).mean(0)).log_softmax(-1)


class SampleAssignment(AssignmentRule):
    """q(c|z) = p(c | z) at the drawn z: the objective becomes that of the collapsed mixture, sum_c pi_c p(z | c).

    This rule gives the tightest bound. The authors' published code uses it.
    """

    is_optimum = True
    needs_draw = True

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        return (prior.log_weights() + prior.log_prob(z)).log_softmax(-1)


class VaDEAssignment(AssignmentRule):
    """q(c|x) = (1/S) sum_s p(c | z_s), z_s ~ q(z|x): the rule of Jiang et al. 2017, which is not the optimum.

    Args:
        num_samples: S ≥ 1.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        self.num_samples = _check_num_samples(num_samples)

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        draws = posterior.rsample((self.num_samples,))
        log_probs = (prior.log_weights() + prior.log_prob(draws)).log_softmax(-1)
        return log_probs.logsumexp(0).log_softmax(-1)


class AmortizedAssignment(AssignmentRule):
    """q(c_j|x) = softmax(head_j(loc_j(x), log scale_j(x))): a free q(c|x) with a learned head per facet.

    Args:
        facets: shallowest first.
        hidden_dim: width of the single hidden layer of each head.
    """

    needs_moments = True

    def __init__(self, facets: Sequence[Facet], *, hidden_dim: int = 64) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * f.latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, f.num_clusters))
            for f in check_facets(facets)
        )

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        moments = torch.cat([posterior.mean, posterior.stddev.log()], -1)
        logits: Tensor = self.heads[j](like_parameters(moments, self.heads))
        return for_densities(logits).log_softmax(-1)


def _check_num_samples(num_samples: int) -> int:
    if num_samples < 1:
        raise InputError(f"expected num_samples ≥ 1, got {num_samples}: pass 1 or more")
    return num_samples
