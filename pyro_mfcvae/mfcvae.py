"""The pair of model and guide, and its queries: arrays or tensors in, tensors out."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyro.distributions as dist
import torch
from safetensors.torch import save as serialize
from torch import Tensor, nn

from pyro_mfcvae.atomic_io import write_atomically
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.groups import MERGE_THRESHOLD, MergeTree, build_groups
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.asking import (
    Array,
    as_latents,
    asking,
    check_clusters,
    check_facet,
    check_number,
    in_batches,
    join_posteriors,
    map_batches,
    read_data,
    repeatable,
)
from pyro_mfcvae.infer.elbo import draw_globals
from pyro_mfcvae.infer.importance import WeightedDraws, weigh
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO, FacetTerms
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture

# Number of draws for the mean of q(c | x) if the rule depends on the drawn z; the standard error is at most 0.05.
_ASSIGN_DRAWS = 128

# Number of draws of q(theta) for the mean of a density, if parameters of the priors are random.
_GLOBAL_DRAWS = 32


class MFCVAE(nn.Module):
    """A `MultiFacetModel` and its `MultiFacetGuide`.

    Queries take arrays or tensors (N, *event_shape) of any number type. If the likelihood describes values in [0, 1],
    bytes are read as pixels 0 … 255. Queries run in batches, without gradients and in evaluation mode. Afterwards every
    module is in the same mode as before, and Pyro's parameter store is unchanged. Results are tensors on the model's
    device. Returned images are expectations E[x | z] of shape (…, *event_shape).

    Args:
        model: p(c, z, x).
        guide: q(z, c | x), made for this model object.

    Attributes:
        recipe: the configuration, as TOML, from which the pair was built; None for a pair with custom parts.
    """

    def __init__(self, model: MultiFacetModel, guide: MultiFacetGuide) -> None:
        super().__init__()
        guide.check_model(model)
        self.model = model
        self.guide = guide
        self.recipe: str | None = None

    def __repr__(self) -> str:
        """One line for the pair and one line per facet. (``print(pair.model)`` shows every module.)"""
        shape = " × ".join(map(str, self.model.event_shape))
        num = sum(parameter.numel() for parameter in self.parameters())
        head = f"MFCVAE of items {shape}: {type(self.model.likelihood).__name__}, {num:,} parameters"
        facets = (
            f"  facet {j}: {facet.num_clusters} clusters in {facet.latent_dim} dimensions, {type(prior).__name__}"
            for j, (facet, prior) in enumerate(zip(self.model.facets, self.model.priors, strict=True))
        )
        return "\n".join([head, *facets])

    @property
    def num_facets(self) -> int:
        """J."""
        return len(self.model.facets)

    @property
    def priors(self) -> Sequence[Mixture]:
        """p(c_j) and p(z_j | c_j); if they have random parameters, at the median of q(theta)."""
        with asking(self.model, self.guide):
            return self.guide.typical_priors()

    def draw_priors(self) -> list[list[Mixture]]:
        """The priors of all facets at draws of q(theta); a single draw if no parameter is random."""
        num_draws = 1 if self.guide.globals_guide is None else _GLOBAL_DRAWS
        with asking(self.model, self.guide):
            return [draw_globals(self.model, self.guide)[0] for _ in range(num_draws)]

    def save(self, path: str | Path) -> None:
        """Write parameters, buffers and `recipe` into one file, which `pyro_mfcvae.load` reads; nothing is pickled.

        Raises:
            InputError: the pair was built from custom parts, which a file cannot describe.
        """
        content = self.to_bytes()
        write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))

    def to_bytes(self) -> bytes:
        """The bytes that `save` writes."""
        if self.recipe is None:
            raise InputError(
                "expected a pair that was built from a configuration, got one of your own parts, which a file cannot "
                "describe: save pair.state_dict() with safetensors.torch.save_file, and load it into the same parts"
            )
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        return serialize(tensors, {"recipe": self.recipe, "event_shape": json.dumps(list(self.model.event_shape))})

    def encode(self, x: Array) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet: batch shape (N,), event shape (D_j,).

        If the family is not Gaussian, such as a flow, all items are computed in one batch.
        """
        data = read_data(self.model, x)
        with asking(self.model, self.guide):
            parts = [self.guide.posteriors(part) for (part,) in in_batches(self.model, data)]
            joined = [join_posteriors(facet) for facet in zip(*parts, strict=True)]
            if any(posterior is None for posterior in joined):
                return self.guide.posteriors(data)
        return [posterior for posterior in joined if posterior is not None]

    def assign(self, x: Array) -> list[Tensor]:
        """q(c_j | x) per facet, (N, K_j). A rule that depends on the drawn z is averaged over q(z_j | x).

        Rules that draw z use a fixed seed, so the result is the same at every call.
        """
        data = read_data(self.model, x)
        with asking(self.model, self.guide), repeatable(data.device):
            priors = self.guide.typical_priors()
            parts = []
            for (part,) in in_batches(self.model, data):
                posteriors = enumerate(zip(priors, self.guide.posteriors(part), strict=True))
                parts.append([self.guide.cluster_probs(j, p, q, num_draws=_ASSIGN_DRAWS) for j, (p, q) in posteriors])
        return [torch.cat(facet) for facet in zip(*parts, strict=True)]

    def groups(
        self, x: Array | None = None, *, threshold: float = MERGE_THRESHOLD, batch_size: int = 1024, seed: int = 0
    ) -> list[MergeTree]:
        """The groups of each facet. Clusters that overlap strongly are merged into one group, see `pyro_mfcvae.groups`.

        Args:
            x: items (N, *event_shape). The share of the items whose most probable cluster is k is the size of cluster
                k, and decides whether it is in use. With None the prior's weights are used instead.
            threshold: groups that overlap by less are not merged.
            batch_size: number of items per batch of the encoder.
            seed: seed of the draws that estimate overlaps; Pyro's random state is not changed.
        """
        weights = None
        if x is not None:
            batches = (x[i : i + batch_size] for i in range(0, max(len(x), 1), batch_size))
            parts = zip(*([probs.argmax(-1) for probs in self.assign(batch)] for batch in batches), strict=True)
            sizes = [facet.num_clusters for facet in self.model.facets]
            weights = [torch.cat(c).bincount(minlength=size) / len(x) for c, size in zip(parts, sizes, strict=True)]
        return build_groups(self.priors, weights=weights, threshold=threshold, seed=seed)

    def reconstruct(self, x: Array) -> Tensor:
        """E[x' | z] at z = E[z | x], (N, *event_shape)."""
        return self.render(self._locations(x))

    def impute(self, x: Array) -> Tensor:
        """``x`` (N, *event_shape) with E[x' | z] in place of every NaN."""
        data = read_data(self.model, x)
        return torch.where(data.isnan(), self.reconstruct(data), data)

    def render(self, zs: Sequence[Array]) -> Tensor:
        """E[x | z] for one tensor z_j per facet, (…, D_j); leading dimensions broadcast."""
        rows, batch = as_latents(self.model, zs)
        with asking(self.model, self.guide):
            images = map_batches(self.model, self._render, *rows)
        return images.reshape(*batch, *images.shape[1:])

    def _render(self, *zs: Tensor) -> Tensor:
        return self.model.likelihood.mean(self.model.decode(zs))

    def sample(self, num: int, *, clusters: Mapping[int, int] | None = None, temperature: float = 1.0) -> Tensor:
        """Draw ``num`` images from the prior, (num, *event_shape). If ``clusters`` has facet j, z_j comes from cluster
        ``clusters[j]``.

        ``temperature`` multiplies the distance of every drawn z_j from the mean of its component; at 0, every z_j is
        such a mean.
        """
        return self.render(self.sample_latents(num, clusters=clusters, temperature=temperature))

    def sample_latents(
        self, num: int, *, clusters: Mapping[int, int] | None = None, temperature: float = 1.0
    ) -> list[Tensor]:
        """The z_j, (num, D_j) each, that `sample` decodes."""
        chosen, num = check_clusters(self.model, clusters), check_number("num", num)
        if not 0 <= temperature <= 1e6:  # larger ones overflow in float32
            raise InputError(f"expected a temperature from 0 to 1e6, got {temperature}: pass 1 for the prior itself")
        zs = []
        with torch.no_grad():
            for j, prior in enumerate(self.priors):
                c = dist.Categorical(logits=prior.log_weights()).sample((num,))
                component = prior.component(torch.full_like(c, chosen[j]) if j in chosen else c)
                zs.append(torch.lerp(component.mean, component.sample(), temperature))
        return zs

    def swap(self, x_a: Array, x_b: Array, *, facets: Iterable[int] | int) -> Tensor:
        """The images ``x_a`` with the given facets of ``x_b``. Both have shape (N, *event_shape) and broadcast."""
        taken = {check_facet(self.model, j) for j in (facets if isinstance(facets, Iterable) else [facets])}
        pairs = zip(self._locations(x_a), self._locations(x_b), strict=True)
        return self.render([b if j in taken else a for j, (a, b) in enumerate(pairs)])

    def traverse(self, x: Array, *, facet: int, dim: int, values: Tensor) -> Tensor:
        """The images ``x`` with coordinate ``dim`` of z_facet set to each of ``values`` (S,): (S, N, *event_shape)."""
        check_facet(self.model, facet)
        if not 0 <= dim < self.model.facets[facet].latent_dim:
            last = self.model.facets[facet].latent_dim - 1
            raise InputError(f"expected a dimension of facet {facet} from 0 to {last}, got {dim}: choose one of them")
        zs = self._locations(x)
        z = zs[facet].expand(len(values), *zs[facet].shape).clone()
        z[..., dim] = torch.as_tensor(values).to(z)[:, None]
        return self.render([z if j == facet else other for j, other in enumerate(zs)])

    def log_evidence(self, x: Array, num_samples: int = 64) -> Tensor:
        """Importance-weighted estimate of log p(x) for every item, (N,), in nats; a lower bound on average, which
        becomes tighter as S grows (Burda et al. 2016).

        log (1/S) sum_s p(x | z_s) prod_j p(z_js) / q(z_js | x), z_s ~ q(z | x), where p(z_j) is the whole mixture. If
        parameters of the priors are random, this is the log predictive density: p(z) is averaged over draws of
        q(theta).
        """
        data, priors = read_data(self.model, x), self.draw_priors()

        def estimate(part: Tensor) -> Tensor:
            return self._weigh(part, priors, num_samples).log_weights.logsumexp(0) - math.log(num_samples)

        check_number("num_samples", num_samples)
        with asking(self.model, self.guide):
            return map_batches(self.model, estimate, data, num_draws=num_samples)

    def weigh(self, x: Array, *, num_samples: int) -> WeightedDraws:
        """Draw z_s ~ q(z | x), s = 1 … S, with their importance weights for p(z | x), for x (N, *event_shape).

        All draws are made at once, so memory grows with N · S. Weights are averaged over q(theta), as in
        `log_evidence`.
        """
        check_number("num_samples", num_samples)
        data, priors = read_data(self.model, x), self.draw_priors()
        with asking(self.model, self.guide):
            return self._weigh(data, priors, num_samples)

    def _weigh(self, x: Tensor, priors: Sequence[Sequence[Mixture]], num_samples: int) -> WeightedDraws:
        posteriors = self.guide.posteriors(x)
        zs = [posterior.sample((num_samples,)) for posterior in posteriors]
        return weigh(self.model, priors, posteriors, zs, x)

    def elbo_terms(self, x: Array) -> ELBOTerms:
        """The terms of the ELBO of every item; the KL is in closed form if there is one.

        If parameters of the priors are random, terms are averaged over draws of q(theta). The z of the reconstruction
        use another, independent draw of q(theta).
        """
        data, elbo = read_data(self.model, x), FacetELBO()
        with asking(self.model, self.guide):
            parts = [elbo.terms(self.model, self.guide, part) for (part,) in in_batches(self.model, data)]
            terms = [torch.cat([getattr(p, name) for p in parts]) for name in ("reconstruction", "kl_z", "kl_c")]
            kl_globals = parts[0].kl_globals
            if self.guide.globals_guide is not None:
                kls, kl_globals = self._average_over_globals(data, elbo)
                terms[1:] = kls
        reconstruction, kl_z, kl_c = terms
        return ELBOTerms(reconstruction, kl_z, kl_c, self.model.beta.clone(), kl_globals)

    def _average_over_globals(self, x: Tensor, elbo: FacetELBO) -> tuple[list[Tensor], Tensor]:
        draws = [draw_globals(self.model, self.guide) for _ in range(_GLOBAL_DRAWS)]
        is_closed = elbo.uses_closed_form(self.guide, draws[0][0])
        batches = []
        for (part,) in in_batches(self.model, x):
            facets = []
            for j, posterior in enumerate(self.guide.posteriors(part)):
                terms = FacetTerms(self.guide, j, is_closed)
                of_draws = [terms(m[j], posterior, posterior.sample())[:2] for m, _ in draws]
                facets.append([torch.stack(term).mean(0) for term in zip(*of_draws, strict=True)])
            batches.append([torch.stack(term, -1) for term in zip(*facets, strict=True)])
        return [torch.cat(term) for term in zip(*batches, strict=True)], torch.stack([kl for _, kl in draws]).mean(0)

    def _locations(self, x: Array) -> list[Tensor]:
        data = read_data(self.model, x)
        with asking(self.model, self.guide):
            parts = [[q.mean for q in self.guide.posteriors(part)] for (part,) in in_batches(self.model, data)]
        return [torch.cat(facet) for facet in zip(*parts, strict=True)]
