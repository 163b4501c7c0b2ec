"""The generative model p(c, z, x) as a Pyro program."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, pyro_method
from pyro.nn.module import PyroModuleList
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import OBSERVED_SITE, PLATE, cluster_site, global_site, latent_site
from pyro_mfcvae.models.decoders import LadderDecoder
from pyro_mfcvae.models.likelihoods import Likelihood
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import FacetPrior

_serial = count()

Known = Mapping[int, Tensor]
"""By facet: the cluster of every item, integers (N,), negative where it is not known."""


class MultiFacetModel(PyroModule):
    """J facets, each a mixture, decoded together (Falck et al. 2021, section 3).

        theta_j ~ priors[j].hyperprior()                  j = 0 … J-1; nothing where no parameter is random
        for n in plate("data", N):
            c_j ~ Categorical(pi_j)
            z_j | c_j ~ priors[j].component(c_j)
            x | z ~ likelihood(decoder(z_0 … z_{J-1}))

    The buffers ``alpha`` (J,) and ``beta`` (J,), both ones at first, weigh each facet's decoder contribution and its
    KL; a schedule overwrites them in place. beta_j = 0 takes the facet's sites out of the objective.

    Args:
        priors: one per facet, shallowest first.
        decoder: a ladder decoder over the same facets.
        likelihood: p(x | decoder output), elementwise.
        missing: x may hold NaN, which stands for an element that was not observed: such elements are left out of
            p(x | z), and an encoder sees 0 in their place.
        num_data: size of the whole data set where batches are subsamples of it: log probabilities are then scaled by
            num_data / batch size, as in ``pyro.plate``.
        name: prefix of the parameters' names in Pyro's parameter store. By default a fresh one for every model, since
            two models that share a name there would silently share parameters.
    """

    priors: Sequence[FacetPrior]
    alpha: Tensor
    beta: Tensor

    def __init__(
        self,
        priors: Sequence[FacetPrior],
        decoder: LadderDecoder,
        likelihood: Likelihood,
        *,
        missing: bool = False,
        num_data: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name if name is not None else f"mfcvae_{next(_serial)}_model")
        facets = tuple(prior.facet for prior in priors)
        if facets != decoder.facets:
            raise InputError(f"priors and decoder must have the same facets: got {facets} and {decoder.facets}")
        self.priors = PyroModuleList(priors)  # type: ignore[assignment]
        self.decoder = decoder
        self.likelihood = likelihood
        self.facets = facets
        self.event_shape = likelihood.event_shape(decoder.out_shape)
        self.missing = missing
        self.num_data = num_data
        # By facet. Hyperpriors are not built anew only to hear their names.
        self._global_names = [list(prior.hyperprior()) for prior in priors]
        self.register_buffer("alpha", torch.ones(len(facets)))
        self.register_buffer("beta", torch.ones(len(facets)))

    def forward(self, x: Tensor | None = None, *, num: int | None = None, known: Known | None = None) -> Tensor:
        """Run the generative process for the items ``x`` (N, *event_shape), or draw ``num`` new ones. Returns x.

        ``known`` conditions c_j on known[j] (N,): the guide, which has the say over c_j, is then certain of it.
        """
        num_items = self.check_items(x, num, known)
        mixtures = self.sample_globals()
        with self.plate(num_items):
            zs = []
            for j, mixture in enumerate(mixtures):
                with self.kl_weight(j):
                    c = pyro.sample(cluster_site(j), dist.Categorical(logits=mixture.log_weights()))
                    zs.append(pyro.sample(latent_site(j), mixture.component(c)))
            filled, observed = (None, None) if x is None else self.split_missing(x)
            sample: Tensor = pyro.sample(OBSERVED_SITE, self.observation(zs, observed), obs=filled)
        return sample

    @pyro_method
    def sample_globals(self) -> list[Mixture]:
        """Draw the priors' random parameters, at sites such as ``probs_j``; returns the priors at these values."""
        mixtures = []
        for j, prior in enumerate(self.priors):
            theta: dict[str, Tensor] = {}
            for name, p in prior.hyperprior().items():
                theta[name] = pyro.sample(global_site(name, j), p if isinstance(p, dist.Distribution) else p(theta))
            mixtures.append(prior(theta))
        return mixtures

    @property
    def global_sites(self) -> list[str]:
        """Names of the sites of `sample_globals`."""
        return [global_site(name, j) for j, names in enumerate(self._global_names) for name in names]

    def starting_point(self, facets: Iterable[int] | None = None) -> dict[str, Tensor]:
        """Where a guide over the `global_sites` of some facets (or all) may start: the priors' own points."""
        chosen = range(len(self.facets)) if facets is None else facets
        return {global_site(name, j): value for j in chosen for name, value in self.priors[j].point().items()}

    def priors_given(self, values: Mapping[str, Tensor]) -> list[Mixture]:
        """The priors at the values of all `global_sites`."""
        return [
            prior({name: values[global_site(name, j)] for name in names})
            for j, (prior, names) in enumerate(zip(self.priors, self._global_names, strict=True))
        ]

    @pyro_method
    def observation(self, zs: Sequence[Tensor], observed: Tensor | None = None) -> dist.TorchDistribution:
        """p(x | z) for J tensors (…, D_j), of the ``observed`` elements where given: batch shape (…)."""
        distribution: dist.TorchDistribution = self.likelihood(self.decode(zs))
        if observed is not None:
            distribution = distribution.mask(observed)
        return distribution.to_event(len(self.event_shape))

    @pyro_method
    def log_likelihood(self, zs: Sequence[Tensor], x: Tensor) -> Tensor:
        """log p(x | z), of the observed elements, for J tensors (…, D_j) and x (N, *event_shape): (…)."""
        filled, observed = self.split_missing(x)
        log_prob: Tensor = self.observation(zs, observed).log_prob(filled)
        return log_prob

    def split_missing(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data with 0 for what is missing, and where they are observed; None where nothing can be missing."""
        return (x.nan_to_num(0.0), x.isnan().logical_not()) if self.missing else (x, None)

    def decode(self, zs: Sequence[Tensor]) -> Tensor:
        """The decoder's output for J tensors (…, D_j), with the current ``alpha``: (…, *event_shape)."""
        output: Tensor = self.decoder(zs, self.alpha)
        return output

    def check_items(self, x: Tensor | None, num: int | None, known: Known | None = None) -> int:
        """How many items a call is about; the data must have the model's event shape, what is known must be there."""
        if known is not None:
            if x is None:
                raise InputError("known clusters are those of data: pass x as well")
            self._check_known(known, len(x))
        if x is not None:
            if tuple(x.shape[1:]) != self.event_shape:
                raise InputError(
                    f"x must have shape (N, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}"
                )
            return len(x)
        if num is None:
            raise InputError("pass the data x, or num=… for the number of new items to draw")
        return num

    def _check_known(self, known: Known, num_items: int) -> None:
        for j, clusters in known.items():
            if not 0 <= j < len(self.facets):
                raise InputError(f"known clusters are for facets 0 … {len(self.facets) - 1}, got facet {j}")
            num_clusters = self.facets[j].num_clusters
            if clusters.shape != (num_items,) or clusters.is_floating_point() or clusters.max() >= num_clusters:
                raise InputError(
                    f"the known clusters of facet {j} must be {num_items} integers below {num_clusters}, negative "
                    f"where unknown, got {clusters.dtype} of shape {tuple(clusters.shape)} up to {clusters.max()}"
                )

    def plate(self, num_items: int) -> pyro.plate:
        """The plate over items, scaled to ``num_data`` items where that is given."""
        if self.num_data is None:
            return pyro.plate(PLATE, num_items, dim=-1)
        if num_items > self.num_data:
            raise InputError(f"a batch of {num_items} items cannot come from num_data={self.num_data}: set it anew")
        # The batch is the subsample: giving its indices keeps Pyro from drawing a random permutation of num_data.
        return pyro.plate(PLATE, self.num_data, subsample=torch.arange(num_items), dim=-1)

    @contextmanager
    def kl_weight(self, j: int) -> Iterator[None]:
        """Weigh the sites inside by beta_j. ``poutine.scale`` refuses zero, so a zero is a mask."""
        beta = self.beta[j]
        active = beta > 0
        with poutine.scale(scale=torch.where(active, beta, 1.0)), poutine.mask(mask=active):  # type: ignore[call-overload]
            yield
