"""Make the draws for the checks in batches, as named arrays in ArviZ's groups.

`draw_items` draws for given data, `simulation.simulate` for items that are drawn from the model.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import as_float, check_complete
from pyro_mfcvae.draws.psis import log_mean, smooth
from pyro_mfcvae.draws.statistics import Statistic
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.importance import WeightedDraws, weigh
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.networks import for_densities

Groups = dict[str, dict[str, tuple[tuple[str, ...], NDArray[Any]]]]
"""Group → variable → its dims and its array."""

Part = dict[str, dict[str, tuple[tuple[str, ...], Tensor]]]
"""Group → variable → its dims and its tensor, for a batch."""

MAX_BYTES = 2 * 2**30  # largest number of bytes of draws in memory
_ELEMENTS_AT_A_TIME, _ITEMS_AT_A_TIME = 2**21, 8192  # decoded elements at once: 682 colour images of 32 × 32 pixels
BOUND_DRAWS = 16
"""Number of draws for the bound. It is the same for data and simulated items, so that the bias is the same for both."""
_RAMP = 1e-3  # nats
_REPLACED_DRAWS = 4  # draws of z_j from the prior, for the loss without facet j


@torch.no_grad()
def draw_items(
    pair: MFCVAE, x: Tensor, *, num_samples: int, statistics: Mapping[str, Statistic], pixels: bool
) -> Groups:
    """Make S draws of q(z, c | x) for N items, with their importance weights and the statistics of a replicated item
    per draw.

    Args:
        pair: in evaluation mode.
        x: the items, (N, *event_shape); bytes are divided by 255.
        num_samples: S.
        statistics: statistics by name. Missing elements are 0 for them, both in data and in replications.
        pixels: whether to keep the replicated items as well.

    Raises:
        InputError: the draws would not fit into memory.
    """
    per_draw = sum(f.latent_dim + 1 for f in pair.model.facets) + len(statistics)
    num_bytes = 4 * num_samples * len(x) * (per_draw + pixels * math.prod(pair.model.event_shape))
    if num_bytes > MAX_BYTES:
        raise InputError(
            f"expected draws of at most {MAX_BYTES / 2**30:.0f} GiB, got {num_samples} draws for {len(x)} items, which "
            f"take {num_bytes / 2**30:.1f} GiB: take fewer draws or items" + (", or pixels=False" if pixels else "")
        )
    priors, parts = pair.priors, batches(pair, x, num_samples)
    drawn = (_draw_batch(pair, priors, images, num_samples, statistics, pixels) for images in parts)
    return gather(drawn, along="item", size=len(x))


def _draw_batch(
    pair: MFCVAE, priors: Sequence[Mixture], images: Tensor, num: int, statistics: Mapping[str, Statistic], pixels: bool
) -> Part:
    """Make the draws of `draw_items` for one batch."""
    draws = pair.weigh(images, num_samples=num)
    filled, observed = pair.model.split_missing(images)
    replicated = draws.observation.sample()
    if observed is not None:
        replicated = replicated * observed
    bound, half = compare_halves(draws, filled, observed)
    dims, drawn, item = event_dims(pair), ("draw", "item"), ("item",)
    evidence = smoothed_evidence(draws.log_weights)
    known: dict[str, tuple[tuple[str, ...], Tensor]] = {"bound": (item, bound), "held_out": (item, half)}
    part: Part = {
        "posterior": {},
        "posterior_predictive": {name: (drawn, f(replicated)) for name, f in statistics.items()},
        "log_likelihood": {"x": (drawn, _with_ramp(evidence, num))},
        "sample_stats": {"log_weight": (drawn, draws.log_weights)},
        "constant_data": known,
        "observed_data": {name: (item, f(filled)) for name, f in statistics.items()},
    }
    part["observed_data"]["x"] = (("item", *dims), images)
    if pixels:
        part["posterior_predictive"]["x"] = ((*drawn, *dims), replicated)
    elbo = draws.log_likelihood
    for j, prior in enumerate(priors):
        facet = _ask_facet(pair, prior, draws, j)
        elbo = elbo + facet.kl_term
        part["posterior"] |= {
            f"c_{j}": (drawn, facet.c.to(torch.int16)),
            f"z_{j}": ((*drawn, f"z_{j}_dim"), draws.zs[j]),
        }
        known |= {
            f"assignment_{j}": (("item", f"cluster_{j}"), facet.probs),
            f"weighted_assignment_{j}": (("item", f"cluster_{j}"), facet.weighted_probs),
            f"discrepancy_{j}": (item, facet.discrepancy),
            f"rule_loss_{j}": (item, facet.rule_loss),
            f"drawn_cluster_{j}": (item, facet.drawn_cluster),
            f"kl_{j}": (item, -draws.log_ratios[..., j].mean(0)),
            f"loss_without_{j}": (item, _loss_without(pair, prior, draws, j, images)),
        }
    known["elbo"] = (item, elbo.mean(0))
    return part


class _Facet(NamedTuple):
    """Computes the results of one facet for the draws of a batch; `draw_items` explains the names."""

    c: Tensor
    probs: Tensor
    weighted_probs: Tensor
    discrepancy: Tensor
    rule_loss: Tensor
    drawn_cluster: Tensor
    kl_term: Tensor


def _ask_facet(pair: MFCVAE, prior: Mixture, draws: WeightedDraws, j: int) -> _Facet:
    posterior, z = draws.posteriors[j], draws.zs[j]
    log_joint = prior.log_weights() + prior.log_prob(z)
    log_q_c = pair.guide.assignment(j, prior, posterior, z).expand_as(log_joint)
    probs = marginal_assignment(pair, j, prior, posterior, z)
    weights, posterior_c = draws.log_weights.softmax(0), log_joint.softmax(-1)
    # The errors of two halves of the draws are independent, so the product of both deviations has no bias.
    first, second = (
        torch.einsum("sn,snk->nk", draws.log_weights[part].softmax(0), posterior_c[part])
        for part in (slice(0, None, 2), slice(1, None, 2))
    )
    rule_loss = z.new_zeros(z.shape[1])
    if not pair.guide.assignment.is_optimum:
        optimum = expected_log_joint(prior, posterior, log_joint).log_softmax(-1)
        rule_loss = (probs * (probs.clamp_min(1e-30).log() - optimum)).sum(-1)
    return _Facet(
        c=dist.Categorical(logits=log_q_c).sample(),
        probs=probs,
        weighted_probs=torch.einsum("sn,snk->nk", weights, posterior_c),
        discrepancy=((probs - first) * (probs - second)).sum(-1),
        rule_loss=rule_loss,
        drawn_cluster=log_joint[0].argmax(-1).to(torch.int16),
        kl_term=(log_q_c.softmax(-1) * (log_joint - log_q_c)).sum(-1) - posterior.log_prob(z),
    )


def expected_log_joint(prior: Mixture, posterior: dist.TorchDistribution, log_joint: Tensor) -> Tensor:
    """log pi_c + E_q(z|x)[log p(z | c)], (N, K): in closed form if possible, otherwise from the values (S, N, K) at
    the draws.
    """
    try:
        return prior.log_weights() + prior.expected_log_prob_under(posterior)
    except InputError:
        return log_joint.mean(0)


def marginal_assignment(pair: MFCVAE, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
    """The guide's q(c_j | x), (N, K): the rule's probabilities, averaged over draws z (S, N, D) if they depend on z."""
    rule = pair.guide.assignment
    if rule.needs_draw:
        # The softmax of log probabilities is equal to their exp, but is not slowed down by underflow.
        return rule(j, prior, posterior, z).softmax(-1).mean(0)
    return rule(j, prior, posterior, posterior.mean).exp()


def compare_halves(draws: WeightedDraws, filled: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The importance-weighted bound on log p(x) from the first 16 draws, and log p(half of an item | the other half).

        log p(x_B | x_A) = log sum_s w_s - log sum_s w_s^A,   w_s^A = p(x_A | z_s) p(z_s) / q(z_s | x)

    The second is in nats per element of B, where A is a random half of the elements of each item. Both have the shape
    (N,).
    """
    num_dims = filled.ndim - 1
    some = slice(None, BOUND_DRAWS)
    log_ratio = draws.log_ratio[some]
    half = torch.rand_like(filled) < 0.5
    elements = draws.observation.base_dist.log_prob(filled)[some]
    log_first = (elements * half).flatten(-num_dims).sum(-1) + log_ratio
    log_both = draws.log_likelihood[some] + log_ratio
    rest = ~half if observed is None else ~half & observed
    num_rest = rest.flatten(1).sum(-1).clamp(min=1)
    return evidence_of(log_both), (log_both.logsumexp(0) - log_first.logsumexp(0)) / num_rest


def _loss_without(pair: MFCVAE, prior: Mixture, draws: WeightedDraws, j: int, images: Tensor) -> Tensor:
    """log p(x | z) minus log p(x | z with z_j drawn from the prior), averaged over four draws, (N,)."""
    num = min(_REPLACED_DRAWS, len(draws.log_likelihood))
    zs = [z[:num] for z in draws.zs]
    zs[j] = prior.sample(num * zs[j].shape[1])[1].reshape(zs[j].shape)
    return (draws.log_likelihood[:num] - pair.model.log_likelihood(zs, images)).mean(0)


@torch.no_grad()
def draw_log_weights(pair: MFCVAE, x: Tensor, *, num_samples: int) -> Tensor:
    """log p(x, z) - log q(z | x) at S draws for every item of ``x`` (N, *event_shape), in batches: (S, N)."""
    parts = [pair.weigh(images, num_samples=num_samples).log_weights.cpu() for images in batches(pair, x, num_samples)]
    return torch.cat(parts, 1)[:, : len(x)]


@torch.no_grad()
def draw_facet_log_weights(pair: MFCVAE, x: Tensor, *, num_samples: int) -> Groups:
    """For every facet j, log weights of S draws of z_j with all other facets at their means m_i = E[z_i | x], (S, N).

        log p(x | z_j, m_-j) + log p(z_j) - log q(z_j | x),   z_j ~ q(z_j | x),   as sample_stats/log_weight_j

    Up to a constant per item this is log p(z_j | x, z_-j = m_-j) - log q(z_j | x). All weights are equal if q(z_j | x)
    is this conditional distribution. The best q with independent facets has this property if the posterior is normal.

    Args:
        pair: in evaluation mode.
        x: (N, *event_shape), N ≥ 1.
        num_samples: S.
    """

    priors = pair.draw_priors()

    def draw(images: Tensor) -> Part:
        posteriors = pair.encode(images)
        means = [posterior.mean.expand(num_samples, -1, -1) for posterior in posteriors]
        part: Part = {"sample_stats": {}}
        for j, posterior in enumerate(posteriors):
            zs = [*means[:j], posterior.sample((num_samples,)), *means[j + 1 :]]
            draws = weigh(pair.model, priors, posteriors, zs, images)
            log_weights = draws.log_likelihood + draws.log_ratios[..., j]
            part["sample_stats"][f"log_weight_{j}"] = (("draw", "weighed_item"), log_weights)
        return part

    return gather((draw(images) for images in batches(pair, x, num_samples)), along="weighed_item", size=len(x))


def _with_ramp(evidence: Tensor, num_samples: int) -> Tensor:
    """The value of each item repeated for every draw, (S, N), plus a ramp of 0.001 nats with mean 0, because ArviZ 1
    refuses equal values."""
    ramp = _RAMP * torch.linspace(-0.5, 0.5, num_samples, dtype=torch.double, device=evidence.device)
    return evidence.double() + ramp[:, None]


def smoothed_evidence(log_weights: Tensor) -> Tensor:
    """log p(x), (N,), from log weights (S, N) whose largest values are Pareto-smoothed, see `psis`."""
    smoothed = smooth(log_weights.T.cpu().numpy())[0]
    return torch.from_numpy(log_mean(smoothed)).to(log_weights)


def evidence_of(log_weights: Tensor) -> Tensor:
    """Importance-weighted log p(x), (N,), from log weights (S, N)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def event_dims(pair: MFCVAE) -> tuple[str, ...]:
    """Names of the dimensions of the data: channel, height and width if there are three."""
    num = len(pair.model.event_shape)
    return ("channel", "height", "width") if num == 3 else tuple(f"x_dim_{i}" for i in range(num))


def items_at_a_time(pair: MFCVAE) -> int:
    """The number of items that are decoded at once, which limits the memory."""
    return max(min(_ELEMENTS_AT_A_TIME // math.prod(pair.model.event_shape), _ITEMS_AT_A_TIME), 1)


def batches(pair: MFCVAE, x: Tensor, num_samples: int) -> Iterator[Tensor]:
    """The items as floats on the pair's device, in batches whose size limits the memory."""
    if not pair.model.missing:
        check_complete(x)
    most = items_at_a_time(pair)
    with pyro.get_param_store().scope():  # Pyro's records of the parameters stay in this scope
        # If there are no items, one blank item gives the shapes, and `gather` drops it.
        for images in (x if len(x) else x.new_zeros(1, *x.shape[1:])).split(max(most // num_samples, 1)):
            yield for_densities(as_float(images)).to(pair.model.alpha.device)


def gather(parts: Iterable[Part], *, along: str, size: int) -> Groups:
    """Join all batches along a dim, on the CPU. Arrays with draws get a dim for one chain.

    The whole arrays are allocated at the first batch, and batches are written into them. Otherwise small results of
    batches would lie in memory between large freed blocks, which could then not be returned to the system.
    """
    groups: Groups = {}
    start = 0
    for part in parts:
        width = 0
        for group, variables in part.items():
            there = groups.setdefault(group, {})
            for name, (dims, tensor) in variables.items():
                axis = dims.index(along)
                chain = ("chain",) if dims[0] == "draw" else ()
                if name not in there:
                    shape = [size if dim == along else n for dim, n in zip(dims, tensor.shape, strict=True)]
                    whole = torch.empty(shape, dtype=tensor.dtype).numpy()
                    there[name] = ((*chain, *dims), whole[None] if chain else whole)
                width = min(tensor.shape[axis], size - start)
                target = torch.from_numpy(there[name][1][0] if chain else there[name][1])
                target.narrow(axis, start, width).copy_(tensor.narrow(axis, 0, width))
        start += width
    return groups
