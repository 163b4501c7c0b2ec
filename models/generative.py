"""The generative model p(c, z, x) as a Pyro program."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import pyro_method
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import OBSERVED_SITE, PLATE, cluster_site, global_site, latent_site
from pyro_mfcvae.interop.entries import default_name, is_default, refuse_traced_buffers
from pyro_mfcvae.interop.inputs import Known, check_data, check_parts, read_known
from pyro_mfcvae.interop.param_store import StoredModule, bear_name, free_name
from pyro_mfcvae.interop.random_weights import draw_weights, warn_of_copies
from pyro_mfcvae.interop.tracing import is_tracing, unfolded
from pyro_mfcvae.models.decoders import LadderDecoder
from pyro_mfcvae.models.distributions import KnownCategorical
from pyro_mfcvae.models.likelihoods import Likelihood
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import FacetPrior, PriorList
from pyro_mfcvae.networks import for_densities, like_parameters

_tokens = count()

# Key in the ``infer`` dictionary of a guide's sites; the value identifies the guide's model.
MODEL_TOKEN = "mfcvae_model"


class MultiFacetModel(StoredModule):
    """J facets, each a mixture, decoded together (Falck et al. 2021, section 3).

        theta_j ~ priors[j].hyperprior()                  j = 0 … J-1; nothing if no parameter is random
        weights of the decoder and likelihood             only those that are a PyroSample
        for n in plate("data", N):
            c_j ~ Categorical(pi_j)
            z_j | c_j ~ priors[j](theta_j).component(c_j)
            x | z ~ likelihood(decoder(z_0 … z_{J-1}))

    The buffers ``alpha`` (J,) and ``beta`` (J,), initially ones, are the weights of each facet's contribution to the
    decoder and of its KL. A schedule overwrites them in place. With beta_j = 0 the sites of facet j are not in the
    objective. A copy (copy.deepcopy, pickle, torch.load) is an independent model and has its own name in Pyro's
    parameter store.

    Args:
        priors: one per facet, shallowest first.
        decoder: a ladder decoder over the same facets.
        likelihood: p(x | decoder output), elementwise.
        missing: whether x may contain NaN for elements that were not observed. These elements are left out of p(x | z),
            and an encoder reads 0 in their place.
        num_data: size of the whole data set, if batches are subsamples of it. Log probabilities are then scaled by
            num_data / batch size, as in ``pyro.plate``. Those of new items (``num``) are not scaled.
        name: prefix of the parameters' names in Pyro's parameter store; by default a new one for every model. Give a
            name if you save and load that store.

    Raises:
        InputError: priors and decoder have different facets.
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
        super().__init__(name if name is not None else default_name("model"))
        bear_name(self)
        facets = tuple(prior.facet for prior in priors)
        if facets != decoder.facets:
            raise InputError(
                f"expected priors and decoder of the same facets, got {facets} and {decoder.facets}: build both from "
                "one list"
            )
        self.token = next(_tokens)
        self.num_guides = 0
        self.priors = priors
        self.decoder = decoder
        self.likelihood = likelihood
        self.facets = facets
        self.event_shape = likelihood.event_shape(decoder.out_shape)
        self.missing = missing
        self.register_buffer("alpha", torch.ones(len(facets)))
        self.register_buffer("beta", torch.ones(len(facets)))
        # num_data as a tensor, with 0 for None; a program traced by torch.jit reads the tensor again at every call.
        self.register_buffer("_num_data", torch.zeros((), dtype=torch.long), persistent=False)
        self.num_data = num_data

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "priors" and not isinstance(value, PriorList):
            value = PriorList(value)
        super().__setattr__(name, value)

    def copied_name(self) -> str:
        self.__dict__["token"] = next(_tokens)
        self.__dict__["num_guides"] = 0
        name = default_name("model") if is_default(self._pyro_name) else free_name(self._pyro_name)
        self.__dict__["_pyro_name"] = name
        bear_name(self)
        return name

    @property
    def num_data(self) -> int | None:
        """Size of the whole data set, or None."""
        return self._size

    @num_data.setter
    def num_data(self, size: int | None) -> None:
        if size is not None and size < 1:
            raise InputError(f"expected num_data ≥ 1, got {size}: give the number of items of the whole data set")
        self._size = size
        self._num_data.fill_(size or 0)

    def forward(self, x: Tensor | None = None, *, num: int | None = None, known: Known | None = None) -> Tensor:
        """Run the generative process for the items ``x`` (N, *event_shape), or draw ``num`` new ones. Returns x.

        ``known`` conditions c_j on the values known[j], (N,); the density is that of the joint distribution.
        """
        self._check_handlers()
        num_items = self.check_items(x, num)
        clusters = self.read_known(known, x)
        mixtures = self.sample_globals()
        draw_weights(self)
        with self.plate(num_items, is_new=x is None):
            zs = []
            for j, mixture in enumerate(mixtures):
                with self.kl_weight(j, x):
                    c = pyro.sample(cluster_site(j), self._clusters(j, mixture, clusters))
                    zs.append(pyro.sample(latent_site(j), mixture.component(c)))
                    warn_of_copies(j, c, zs[-1])
            return self._sample_x(zs, x)

    @pyro_method
    def collapsed(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        """The same distribution of z and x, without sites c_j: z_j ~ sum_c pi_jc p(z_j | c).

        Use it for tools that need continuous sites or a density without enumeration: ``NUTS(model.collapsed)``, an
        automatic guide over z (``AutoNormal(model.collapsed)``), and ``Trace_ELBO`` or ``RenyiELBO`` with
        ``guide.collapsed``. It has the model's parameters, under the same names. ``x`` and ``num`` are those of
        `forward`.
        """
        self._check_handlers()
        num_items = self.check_items(x, num)
        mixtures = self.sample_globals()
        draw_weights(self)
        with self.plate(num_items, is_new=x is None):
            zs = []
            for j, mixture in enumerate(mixtures):
                with self.kl_weight(j, x):
                    zs.append(pyro.sample(latent_site(j), mixture.marginal()))
            return self._sample_x(zs, x)

    def _sample_x(self, zs: Sequence[Tensor], x: Tensor | None) -> Tensor:
        filled, observed = (None, None) if x is None else self.split_missing(x)
        sample: Tensor = pyro.sample(OBSERVED_SITE, self.observation(zs, observed), obs=filled)
        return sample

    @staticmethod
    def _clusters(j: int, mixture: Mixture, known: dict[int, Tensor] | None) -> dist.TorchDistribution:
        if known is None or j not in known:
            return dist.Categorical(logits=mixture.log_weights())
        return KnownCategorical(mixture.log_weights(), known[j])

    @pyro_method
    def sample_globals(self) -> list[Mixture]:
        """Draw the priors' random parameters, at sites such as ``probs_j``; returns the priors at these values."""
        return [prior(prior.draw_theta(j)) for j, prior in enumerate(self.priors)]

    @property
    def global_sites(self) -> list[str]:
        """Names of the sites of `sample_globals`."""
        return [
            global_site(name, j) for j, names in enumerate(cast(PriorList, self.priors).theta_names) for name in names
        ]

    def starting_point(self, facets: Iterable[int] | None = None) -> dict[str, Tensor]:
        """Starting values (each prior's `point`) for a guide over the `global_sites` of some facets, or of all."""
        chosen = range(len(self.facets)) if facets is None else facets
        return {global_site(name, j): value for j in chosen for name, value in self.priors[j].point().items()}

    def priors_given(self, values: Mapping[str, Tensor]) -> list[Mixture]:
        """The priors at the values of all `global_sites`."""
        if missing := [site for site in self.global_sites if site not in values]:
            raise InputError(f"expected values of {missing}, got none: after another prior is set, build a new guide")
        return [
            prior({name: values[global_site(name, j)] for name in names})
            for j, (prior, names) in enumerate(zip(self.priors, cast(PriorList, self.priors).theta_names, strict=True))
        ]

    @pyro_method
    def observation(self, zs: Sequence[Tensor], observed: Tensor | None = None) -> dist.TorchDistribution:
        """p(x | z) for J tensors (…, D_j), with batch shape (…), of all or of the ``observed`` elements."""
        distribution: dist.TorchDistribution = self.likelihood(self.decode(zs))
        if observed is not None:
            distribution = distribution.mask(observed)
        return distribution.to_event(len(self.event_shape))

    @pyro_method
    def log_likelihood(self, zs: Sequence[Tensor], x: Tensor) -> Tensor:
        """log p(x | z) of the observed elements, (…), for J tensors (…, D_j) and x (N, *event_shape)."""
        filled, observed = self.split_missing(x)
        log_prob: Tensor = self.observation(zs, observed).log_prob(filled)
        return log_prob

    def split_missing(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The data with 0 for missing elements, and the mask of observed ones (None unless elements may be missing)."""
        x = for_densities(x)
        return (x.nan_to_num(0.0), x.isnan().logical_not()) if self.missing else (x, None)

    def decode(self, zs: Sequence[Tensor]) -> Tensor:
        """The decoder's output for J tensors (…, D_j), with the current ``alpha``: (…, *event_shape)."""
        inputs = [like_parameters(z, self.decoder) for z in zs]
        output: Tensor = self.decoder(inputs, unfolded(self.alpha, zs[0], tag=1))
        return for_densities(output)

    def check_items(self, x: Tensor | None, num: int | None = None) -> int:
        """Check the data of a call, and return its number of items: that of the data, or ``num``.

        Raises:
            InputError: parts that were set later do not fit together, the type, shape or values of x do not fit, or x
                has no items.
        """
        check_parts(self)
        if x is not None:
            return check_data(
                x,
                self.event_shape,
                self.likelihood.support(self.decoder.out_shape),
                like=self.alpha,
                missing=self.missing,
            )
        if num is None or num < 1:
            raise InputError(f"expected the data x, or num ≥ 1 for the number of new items, got num={num}: pass one")
        return num

    def read_known(self, known: Known | None, x: Tensor | None) -> dict[int, Tensor] | None:
        """The known clusters of the items ``x`` as int64 tensors; see `read_known`."""
        if known is None:
            return None
        if x is None:
            raise InputError("expected data x with known clusters, got none: pass x as well")
        return read_known(known, self.facets, len(x), x.device)

    @contextmanager
    def plate(self, num_items: int, *, is_new: bool = False) -> Iterator[None]:
        """The plate over items. Unless they are new, it is scaled to ``num_data`` items if that is given."""
        with pyro.plate(PLATE, num_items, dim=-1):
            if is_tracing():
                size = unfolded(self._num_data, torch.as_tensor(num_items))
                with poutine.scale(scale=torch.where(size > 0, size / num_items, 1.0)):
                    yield
            elif self.num_data is None or is_new:
                yield
            elif num_items > self.num_data:
                raise InputError(
                    f"expected a batch of at most num_data={self.num_data} items, got {num_items}: set model.num_data "
                    "to the size of the data set"
                )
            else:
                with poutine.scale(scale=self.num_data / num_items):
                    yield

    @contextmanager
    def kl_weight(self, j: int, x: Tensor | None = None) -> Iterator[None]:
        """Context that weights sites by beta_j, and masks them if it is 0, which ``poutine.scale`` refuses."""
        beta = (self.beta if x is None else unfolded(self.beta, x))[j]
        active = beta > 0
        with poutine.scale(scale=torch.where(active, beta, 1.0)), poutine.mask(mask=active):  # type: ignore[call-overload]
            yield

    def _check_handlers(self) -> None:
        """Refuse to replay the draws of a guide that was made for another model."""
        refuse_traced_buffers(self)
        for handler in _PYRO_STACK:
            if isinstance(handler, ReplayMessenger) and handler.trace is not None:
                site = handler.trace.nodes.get(latent_site(0))
                if site is not None and (site["infer"] or {}).get(MODEL_TOKEN, self.token) != self.token:
                    raise InputError(WRONG_MODEL)


WRONG_MODEL = (
    "expected a guide that was made for this model, got one of another model, or a copy of only one of the two: build "
    "it as MultiFacetGuide(model, …), and copy both at once, copy.deepcopy(MFCVAE(model, guide))"
)
