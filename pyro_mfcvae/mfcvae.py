"""The pair of model and guide, and the questions one asks of it: tensors in, tensors out."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.groups import MERGE_THRESHOLD, MergeTree, build_groups
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.importance import WeightedDraws, weigh
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture


class MFCVAE(nn.Module):
    """A `MultiFacetModel` and its `MultiFacetGuide`.

    Images that are returned are expectations E[x | z], of the shape (…, *event_shape) of the data.

    Args:
        model: p(c, z, x).
        guide: q(z, c | x), made for this very model.
    """

    def __init__(self, model: MultiFacetModel, guide: MultiFacetGuide) -> None:
        super().__init__()
        if guide.model is not model:
            raise InputError("the guide was made for another model: build it as MultiFacetGuide(model, …) of this one")
        self.model = model
        self.guide = guide

    @property
    def num_facets(self) -> int:
        """J."""
        return len(self.model.facets)

    @property
    def priors(self) -> Sequence[Mixture]:
        """p(c_j) and p(z_j | c_j); where parameters of theirs are random, at the median of q(theta)."""
        return self.guide.typical_priors()

    def encode(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet: batch shape (N,), event shape (D_j,)."""
        self.model.check_items(x, None)
        return self.guide.posteriors(x)

    def assign(self, x: Tensor) -> list[Tensor]:
        """q(c_j | x) per facet, (N, K_j). A rule that looks at a drawn z_j is given E[z_j | x]."""
        rule, priors = self.guide.assignment, self.priors
        return [rule(j, priors[j], q, q.mean).exp() for j, q in enumerate(self.encode(x))]

    @torch.no_grad()
    def groups(
        self, x: Tensor | None = None, *, threshold: float = MERGE_THRESHOLD, batch_size: int = 1024, seed: int = 0
    ) -> list[MergeTree]:
        """Which clusters of each facet overlap so much that they are one group, see `pyro_mfcvae.groups`.

        Args:
            x: items (N, *event_shape), whose most probable clusters decide how large every cluster is and which ones
                are in use; the prior's weights do where None.
            threshold: groups that overlap by less stay apart.
            batch_size: items that the encoder sees at once.
            seed: of the draws that estimate overlaps; Pyro's random state stays as it is.
        """
        weights = None
        if x is not None:
            parts = zip(
                *([probs.argmax(-1) for probs in self.assign(part)] for part in x.split(batch_size)), strict=True
            )
            sizes = [facet.num_clusters for facet in self.model.facets]
            weights = [torch.cat(c).bincount(minlength=size) / len(x) for c, size in zip(parts, sizes, strict=True)]
        return build_groups(self.priors, weights=weights, threshold=threshold, seed=seed)

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x' | z] at z = E[z | x], (N, *event_shape)."""
        return self.render(self._locations(x))

    def impute(self, x: Tensor) -> Tensor:
        """``x`` (N, *event_shape) with E[x' | z] in place of every NaN."""
        if not self.model.missing and x.isnan().any():
            raise InputError("x has missing elements, NaN, and this model expects none: build it with missing=True")
        return torch.where(x.isnan(), self.reconstruct(x), x)

    def render(self, zs: Sequence[Tensor]) -> Tensor:
        """E[x | z] for one (…, D_j) per facet."""
        return self.model.likelihood.mean(self.model.decode(zs))

    def sample(self, num: int, *, clusters: Mapping[int, int] | None = None, temperature: float = 1.0) -> Tensor:
        """Draw ``num`` images from the prior, facet j in cluster ``clusters[j]`` where given: (num, *event_shape).

        ``temperature`` multiplies every draw's distance to its component's mean: at 0 there are typical images only.
        """
        return self.render(self.sample_latents(num, clusters=clusters, temperature=temperature))

    def sample_latents(
        self, num: int, *, clusters: Mapping[int, int] | None = None, temperature: float = 1.0
    ) -> list[Tensor]:
        """The z_j, (num, D_j) each, that `sample` renders."""
        clusters = clusters or {}
        if not 0 <= temperature < math.inf:
            raise InputError(f"temperature must be finite and ≥ 0, got {temperature}")
        for j, k in clusters.items():
            self._check_facet(j)
            if not 0 <= k < self.model.facets[j].num_clusters:
                raise InputError(f"facet {j} has clusters 0 … {self.model.facets[j].num_clusters - 1}, got {k}")
        zs = []
        for j, prior in enumerate(self.priors):
            c = dist.Categorical(logits=prior.log_weights()).sample((num,))
            component = prior.component(torch.full_like(c, clusters[j]) if j in clusters else c)
            zs.append(torch.lerp(component.mean, component.sample(), temperature))
        return zs

    def swap(self, x_a: Tensor, x_b: Tensor, *, facets: Iterable[int]) -> Tensor:
        """The images ``x_a`` with the given facets taken from ``x_b``: shapes (N, *event_shape) that broadcast."""
        taken = set(facets)
        for j in taken:
            self._check_facet(j)
        pairs = zip(self._locations(x_a), self._locations(x_b), strict=True)
        return self.render([b if j in taken else a for j, (a, b) in enumerate(pairs)])

    def traverse(self, x: Tensor, *, facet: int, dim: int, values: Tensor) -> Tensor:
        """The images ``x`` with coordinate ``dim`` of z_facet set to each of ``values`` (S,): (S, N, *event_shape)."""
        self._check_facet(facet)
        if not 0 <= dim < self.model.facets[facet].latent_dim:
            raise InputError(f"facet {facet} has dimensions 0 … {self.model.facets[facet].latent_dim - 1}, got {dim}")
        zs = self._locations(x)
        z = zs[facet].expand(len(values), *zs[facet].shape).clone()
        z[..., dim] = values[:, None]
        return self.render([z if j == facet else other for j, other in enumerate(zs)])

    @torch.no_grad()
    def log_evidence(self, x: Tensor, num_samples: int = 64) -> Tensor:
        """Importance-weighted log p(x) of every item, (N,), in nats; a bound that tightens with S (Burda et al. 2016).

        log (1/S) sum_s p(x | z_s) prod_j p(z_js) / q(z_js | x), z_s ~ q(z | x), with p(z_j) the whole mixture.
        """
        return self.weigh(x, num_samples=num_samples).log_weights.logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def weigh(self, x: Tensor, *, num_samples: int) -> WeightedDraws:
        """Draw z_s ~ q(z | x), s = 1 … S, with their importance weights for p(z | x), for x (N, *event_shape)."""
        if num_samples < 1:
            raise InputError(f"num_samples must be ≥ 1, got {num_samples}")
        posteriors = self.encode(x)
        zs = [posterior.sample((num_samples,)) for posterior in posteriors]
        return weigh(self.model, self.priors, posteriors, zs, x)

    @torch.no_grad()
    def elbo_terms(self, x: Tensor) -> ELBOTerms:
        """The ELBO of every item, term by term; in closed form where there is one."""
        return FacetELBO(closed_form=self.guide.has_closed_form).terms(self.model, self.guide, x)

    def _locations(self, x: Tensor) -> list[Tensor]:
        return [posterior.mean for posterior in self.encode(x)]

    def _check_facet(self, j: int) -> None:
        if not 0 <= j < self.num_facets:
            raise InputError(f"facets are numbered 0 … {self.num_facets - 1}, got {j}")
