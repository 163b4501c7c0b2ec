"""What the checks look at, drawn batch by batch: named arrays in ArviZ's groups.

With `draw_items` a pair is asked about data, with `simulate` about items that it draws itself, whose c and z are known.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from pyro_mfcvae.data.images import as_float, check_complete
from pyro_mfcvae.draws.statistics import Statistic
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.importance import weigh
from pyro_mfcvae.mfcvae import MFCVAE

Groups = dict[str, dict[str, tuple[tuple[str, ...], NDArray[Any]]]]
"""Group → variable → its dims and its array."""

_Part = dict[str, dict[str, tuple[tuple[str, ...], Tensor]]]

MAX_BYTES = 2 * 2**30  # of draws in memory
_ELEMENTS_AT_A_TIME, _ITEMS_AT_A_TIME = 2**21, 8192  # decoded: 682 colour images of 32 × 32 pixels
_COMPONENT_DRAWS = 256  # of every cluster, for its overlap with the others
_RANK_DRAWS = 199  # of q(z | x) for every simulated item: ranks 0 … 199


@torch.no_grad()
def draw_items(
    pair: MFCVAE, x: Tensor, *, num_samples: int, statistics: Mapping[str, Statistic], pixels: bool
) -> Groups:
    """S draws of q(z, c | x) for N items, their importance weights, and statistics of as many replicated items.

    Args:
        pair: in evaluation mode.
        x: (N, *event_shape); bytes count as shares of 255.
        num_samples: S.
        statistics: by name; in place of missing elements they see 0, in data and replications alike.
        pixels: also keep the replicated items themselves.

    Raises:
        InputError: the draws would not fit into memory.
    """
    per_draw = sum(f.latent_dim + 1 for f in pair.model.facets) + len(statistics)
    num_bytes = 4 * num_samples * len(x) * (per_draw + pixels * math.prod(pair.model.event_shape))
    if num_bytes > MAX_BYTES:
        raise InputError(
            f"{num_samples} draws for {len(x)} items would take {num_bytes / 2**30:.1f} GiB, more than "
            f"{MAX_BYTES / 2**30:.0f}: take fewer draws or items" + (", or pixels=False" if pixels else "")
        )
    priors, dims = pair.priors, event_dims(pair)

    def draw(images: Tensor) -> _Part:
        draws = pair.weigh(images, num_samples=num_samples)
        filled, observed = pair.model.split_missing(images)
        replicated = draws.observation.sample()
        if observed is not None:
            replicated = replicated * observed
        elbo = draws.log_likelihood
        drawn = ("draw", "item")
        part: _Part = {
            "posterior": {},
            "posterior_predictive": {name: (drawn, f(replicated)) for name, f in statistics.items()},
            "log_likelihood": {"x": (drawn, evidence_of(draws.log_weights)[None])},
            "sample_stats": {"log_weight": (drawn, draws.log_weights)},
            "observed_data": {name: (("item",), f(filled)) for name, f in statistics.items()},
        }
        part["observed_data"]["x"] = (("item", *dims), images)
        if pixels:
            part["posterior_predictive"]["x"] = ((*drawn, *dims), replicated)
        weights = draws.log_weights.softmax(0)
        for j, (posterior, z, probs) in enumerate(zip(draws.posteriors, draws.zs, pair.assign(images), strict=True)):
            prior, clusters = priors[j], ("item", f"cluster_{j}")
            log_joint = prior.log_weights() + prior.log_prob(z)
            log_q_c = pair.guide.assignment(j, prior, posterior, z).expand_as(log_joint)
            elbo = elbo + (log_q_c.exp() * (log_joint - log_q_c)).sum(-1) - posterior.log_prob(z)
            c = dist.Categorical(logits=log_q_c).sample()
            weighted = torch.einsum("sn,snk->nk", weights, log_joint.softmax(-1))
            part["posterior"] |= {
                f"c_{j}": (drawn, c.to(torch.int16)),
                f"z_{j}": ((*drawn, f"z_{j}_dim"), z),
            }
            part["sample_stats"] |= {
                f"assignment_{j}": (clusters, probs),
                f"weighted_assignment_{j}": (clusters, weighted),
            }
        part["sample_stats"]["elbo"] = (("item",), elbo.mean(0))
        return part

    return _gather((draw(images) for images in _batches(pair, x, num_samples)), along="item", size=len(x))


@torch.no_grad()
def simulate(
    pair: MFCVAE, *, num: int, num_weighed: int, num_samples: int, statistics: Mapping[str, Statistic]
) -> Groups:
    """P items drawn from the model, and what the guide says of them; an item is a draw of the prior.

    ``rank_j`` is the share of draws of q(z_j | x) that lie below the true z_j, coordinate by coordinate, with a uniform
    draw within the step: uniform on (0, 1) where q(z | x) is exact (Cook, Gelman and Rubin 2006; Yao et al. 2018).

    Args:
        pair: in evaluation mode.
        num: P.
        num_weighed: of how many of them, the first, the evidence is found; it is NaN for the others.
        num_samples: S, for the evidence.
        statistics: of the drawn items.
    """
    priors, dims = pair.priors, event_dims(pair)

    def draw(size: int) -> _Part:
        cs, zs = zip(*(prior.sample(size) for prior in priors), strict=True)
        x = pair.model.observation(zs).sample()
        part: _Part = {
            "prior": {},
            "prior_predictive": {name: (("draw",), f(x)) for name, f in statistics.items()},
            "sample_stats_prior": {},
        }
        part["prior_predictive"]["x"] = (("draw", *dims), x)
        for j, (c, z, posterior, probs) in enumerate(zip(cs, zs, pair.encode(x), pair.assign(x), strict=True)):
            below = (posterior.sample((_RANK_DRAWS,)) < z).sum(0)
            rank = (below + torch.rand_like(z)) / (_RANK_DRAWS + 1)
            z_dims, clusters = ("draw", f"z_{j}_dim"), ("draw", f"cluster_{j}")
            part["prior"] |= {f"c_{j}": (("draw",), c.to(torch.int16)), f"z_{j}": (z_dims, z)}
            part["sample_stats_prior"] |= {f"assignment_{j}": (clusters, probs), f"rank_{j}": (z_dims, rank)}
        return part

    with pyro.get_param_store().scope():
        most = _items_at_a_time(pair)
        groups = _gather((draw(min(most, num - start)) for start in range(0, num, most)), along="draw", size=num)
    x = torch.from_numpy(groups["prior_predictive"]["x"][1][0, :num_weighed])
    log_evidence = torch.full((1, num), torch.nan)
    log_evidence[0, : len(x)] = evidence_of(draw_log_weights(pair, x, num_samples=num_samples))
    known = groups["sample_stats_prior"]
    known["log_evidence"] = (("chain", "draw"), log_evidence.numpy())
    for j, prior in enumerate(priors):
        names = (f"cluster_{j}", f"other_cluster_{j}")
        known[f"weight_{j}"] = (names[:1], prior.log_weights().exp().cpu().numpy())
        known[f"overlap_{j}"] = (names, overlap(pair, j).cpu().numpy())
    return groups


@torch.no_grad()
def draw_theta(pair: MFCVAE, *, num_samples: int) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
    """S draws of q(theta) at every global site, such as ``probs_0``; nothing where no parameter is random."""
    guide = pair.guide.globals_guide
    if guide is None:
        return {}
    with pyro.get_param_store().scope(), poutine.block():
        draws = [guide() for _ in range(num_samples)]
    drawn = {}
    for name in pair.model.global_sites:
        array = torch.stack([values[name] for values in draws]).cpu().numpy()[None]
        drawn[name] = (("chain", "draw", *(f"{name}_dim_{i}" for i in range(array.ndim - 2))), array)
    return drawn


@torch.no_grad()
def draw_log_weights(pair: MFCVAE, x: Tensor, *, num_samples: int) -> Tensor:
    """log p(x, z) - log q(z | x) at S draws for every item of ``x`` (N, *event_shape), in batches: (S, N)."""
    parts = [pair.weigh(images, num_samples=num_samples).log_weights.cpu() for images in _batches(pair, x, num_samples)]
    return torch.cat(parts, 1) if parts else torch.empty(num_samples, 0)


@torch.no_grad()
def draw_facet_log_weights(pair: MFCVAE, x: Tensor, *, num_samples: int) -> Groups:
    """How S draws of one facet alone weigh, the others held at their means m_i = E[z_i | x]: (S, N) for every facet j.

        log p(x | z_j, m_-j) + log p(z_j) - log q(z_j | x),   z_j ~ q(z_j | x),   as sample_stats/log_weight_j

    that is log p(z_j | x, z_-j = m_-j) - log q(z_j | x), up to a constant of the item. All are equal where q(z_j | x)
    is that conditional: what the best q of independent facets is, if the posterior is a normal distribution.

    Args:
        pair: in evaluation mode.
        x: (N, *event_shape), N ≥ 1.
        num_samples: S.
    """

    priors = pair.draw_priors()

    def draw(images: Tensor) -> _Part:
        posteriors = pair.encode(images)
        means = [posterior.mean.expand(num_samples, -1, -1) for posterior in posteriors]
        part: _Part = {"sample_stats": {}}
        for j, posterior in enumerate(posteriors):
            zs = [*means[:j], posterior.sample((num_samples,)), *means[j + 1 :]]
            draws = weigh(pair.model, priors, posteriors, zs, images)
            log_weights = draws.log_likelihood + draws.log_ratios[..., j]
            part["sample_stats"][f"log_weight_{j}"] = (("draw", "weighed_item"), log_weights)
        return part

    return _gather((draw(images) for images in _batches(pair, x, num_samples)), along="weighed_item", size=len(x))


def evidence_of(log_weights: Tensor) -> Tensor:
    """Importance-weighted log p(x), (N,), of log weights (S, N)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


@torch.no_grad()
def overlap(pair: MFCVAE, j: int) -> Tensor:
    """R[c, c'] = E_p(z|c)[p(c') p(z|c') / (p(c) p(z|c) + p(c') p(z|c'))], (K_j, K_j), with ½ on the diagonal.

    R[c, c'] + R[c', c] is 1 where two components are the same, whatever their weights, and 0 where they are apart.
    """
    prior = pair.priors[j]
    rows = []
    for c in range(prior.num_clusters):
        z = prior.component(torch.full((_COMPONENT_DRAWS,), c, device=pair.model.alpha.device)).sample()
        joint = prior.log_weights() + prior.log_prob(z)
        rows.append((joint - joint[:, c : c + 1]).sigmoid().mean(0))
    return torch.stack(rows)


def event_dims(pair: MFCVAE) -> tuple[str, ...]:
    """Names of the data's dimensions: channel, height and width where there are three."""
    num = len(pair.model.event_shape)
    return ("channel", "height", "width") if num == 3 else tuple(f"x_dim_{i}" for i in range(num))


def _items_at_a_time(pair: MFCVAE) -> int:
    return max(min(_ELEMENTS_AT_A_TIME // math.prod(pair.model.event_shape), _ITEMS_AT_A_TIME), 1)


def _batches(pair: MFCVAE, x: Tensor, num_samples: int) -> Iterator[Tensor]:
    """The items as floats on the pair's device, so many at a time that memory stays bounded."""
    if not pair.model.missing:
        check_complete(x)
    with pyro.get_param_store().scope():  # whatever Pyro notes of the parameters in its global store goes no further
        for images in x.split(max(_items_at_a_time(pair) // num_samples, 1)):
            if len(images):
                yield as_float(images).to(pair.model.alpha.device)


def _gather(parts: Iterable[_Part], *, along: str, size: int) -> Groups:
    """All batches put together along a dim, on the CPU; what has draws gets a chain, of which there is one.

    The whole arrays are there from the first batch on, and batches are written into them. Kept one by one until the
    end, the small results of a batch would lie between the large ones that were freed, and hold on to that memory.
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
                width = tensor.shape[axis]
                target = torch.from_numpy(there[name][1][0] if chain else there[name][1])
                target.narrow(axis, start, width).copy_(tensor)
        start += width
    return groups
