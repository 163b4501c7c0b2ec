"""The amortised guide q(z, c | x) as a Pyro program."""

from collections.abc import Iterable, Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import pyro_method
from pyro.poutine.runtime import InferDict
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides.assignments import AnalyticAssignment, AssignmentRule
from pyro_mfcvae.guides.encoders import LadderEncoder
from pyro_mfcvae.guides.globals import ConjugateGuide, GlobalGuide, move_to, typical_values
from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.interop.param_store import StoredModule, bear_name, free_name, outside_store
from pyro_mfcvae.interop.random_weights import refuse_random_weights
from pyro_mfcvae.models.distributions import IMPOSSIBLE
from pyro_mfcvae.models.generative import MODEL_TOKEN, WRONG_MODEL, MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture, PosteriorCovariance
from pyro_mfcvae.models.priors import FacetPrior
from pyro_mfcvae.networks import like_parameters

_UNDER: dict[PosteriorCovariance | None, str] = {
    "diagonal": "",
    "full": " for a q(z | x) with a full covariance",
    None: " for a q(z | x) that is not Gaussian",
}

_NO_GUIDE = "the model has no site for weights of an encoder or a rule: learn them as parameters"

# Largest number of draws of z in memory at once, when a rule that depends on the drawn z is averaged.
_DRAWS_AT_ONCE = 8


class MultiFacetGuide(StoredModule):
    """q(theta, z, c | x) = q(theta) prod_j q(z_j | x) q(c_j | x, theta).

        theta ~ globals_guide()                           the priors' random parameters, if there are any
        for n in plate("data", N):
            z_j ~ encoder(x)[j]                           j = 0 … J-1
            c_j ~ Categorical(assignment(j, …)), enumerated by TraceEnum_ELBO; fixed if it is known

    The clusters are enumerated in the guide, so the decoder has no enumeration dimension, and the cost grows with the
    sum of the K_j and not with their product.

    Args:
        model: the model that the guide belongs to. The guide uses the model's priors, but never registers the model's
            parameters as its own.
        encoder: a ladder encoder over the same facets. It reads 0 for missing elements. If its ``in_shape`` is that of
            `with_mask`, it also reads the mask of the observed elements.
        assignment: the rule for q(c_j | x); the analytic optimum by default.
        globals_guide: q(theta) over `MultiFacetModel.sample_globals`; a `ConjugateGuide` by default.
        name: prefix of the parameters' names in Pyro's parameter store; by default the model's name with "_guide"
            added, and a number for each further guide of the same model.

    Raises:
        InputError: encoder, rule or globals_guide do not fit the model.
    """

    def __init__(
        self,
        model: MultiFacetModel,
        *,
        encoder: LadderEncoder,
        assignment: AssignmentRule | None = None,
        globals_guide: GlobalGuide | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name if name is not None else _name_after(model))
        self._is_named = name is not None
        bear_name(self)
        self._reads_mask = _reads_mask(model, encoder)
        self.encoder = encoder
        self.assignment = assignment if assignment is not None else AnalyticAssignment()
        for prior in model.priors:
            prior.check_encoder(encoder)
        _check_rule(self.assignment, model.priors, encoder)
        # Inside a tuple the model is not a submodule, so the guide does not register its parameters.
        self._model = (model,)
        if model.global_sites and globals_guide is None:
            globals_guide = ConjugateGuide(model)
        self.globals_guide = globals_guide
        if globals_guide is not None:
            with outside_store(), poutine.block():
                covered = globals_guide().keys()  # Pyro's automatic guides make their parameters when first called
            if set(model.global_sites) != covered:
                raise InputError(
                    f"expected a globals_guide over the sites {model.global_sites}, got one over {sorted(covered)}: "
                    "build it on model.sample_globals, for example AutoNormal(model.sample_globals)"
                )

    def stored_together(self) -> tuple[StoredModule, ...]:
        return (self.model, self)

    def copied_name(self) -> str:
        name = free_name(self._pyro_name) if self._is_named else _name_after(self.model)
        self.__dict__["_pyro_name"] = name
        bear_name(self)
        return name

    @property
    def model(self) -> MultiFacetModel:
        """The model that the guide belongs to."""
        return self._model[0]

    def check_model(self, model: object) -> None:
        """Raise an error if ``model`` is not the guide's own model (a copy is not), or if the encoder does not fit the
        model.
        """
        if model is not self.model:
            raise InputError(WRONG_MODEL)
        self._reads_mask = _reads_mask(self.model, self.encoder)

    @property
    def has_closed_form(self) -> bool:
        """Whether the KL has a closed form: every prior has one, and the rule does not depend on the drawn z."""
        covariance = self.encoder.covariance
        return not self.assignment.needs_draw and all(p.has_closed_form(covariance) for p in self.model.priors)

    def forward(self, x: Tensor | None = None, *, num: int | None = None, known: Known | None = None) -> None:
        """Sample every z_j and c_j for the items ``x`` (N, *event_shape). Clusters in ``known`` are set instead of
        drawn.
        """
        if x is None:
            raise InputError("expected the data x, since the guide is q(z, c | x), got none: pass x")
        model = self.model
        self.check_model(model)
        refuse_random_weights(self, reason=_NO_GUIDE)
        num_items = model.check_items(x, num)
        clusters = model.read_known(known, x)
        mixtures = self.sample_globals()
        with model.plate(num_items):
            for j, (mixture, posterior) in enumerate(zip(mixtures, self.posteriors(x), strict=True)):
                with model.kl_weight(j, x):
                    z = pyro.sample(latent_site(j), posterior, infer=_mark(model))
                    c = dist.Categorical(logits=self.assignment_logits(j, mixture, posterior, z, clusters))
                    pyro.sample(cluster_site(j), c, infer={**_mark(model), "enumerate": "parallel"})

    @pyro_method
    def collapsed(self, x: Tensor | None = None, *, num: int | None = None) -> None:
        """q(theta) prod_j q(z_j | x), without clusters: the guide of `MultiFacetModel.collapsed`."""
        if x is None:
            raise InputError("expected the data x, since the guide is q(z | x), got none: pass x")
        model = self.model
        self.check_model(model)
        refuse_random_weights(self, reason=_NO_GUIDE)
        num_items = model.check_items(x, num)
        self.sample_globals()
        with model.plate(num_items):
            for j, posterior in enumerate(self.posteriors(x)):
                with model.kl_weight(j, x):
                    pyro.sample(latent_site(j), posterior, infer=_mark(model))

    @pyro_method
    def sample_globals(self) -> Sequence[Mixture]:
        """Draw theta ~ q(theta) and return the priors at that value, or unchanged if no parameter is random."""
        return self.model.priors_given({} if self.globals_guide is None else self.globals_guide())

    def typical_priors(self) -> Sequence[Mixture]:
        """The priors at the median of q(theta)."""
        return self.model.priors_given(
            {} if self.globals_guide is None else typical_values(self.globals_guide, self.model)
        )

    def restart_globals(self, facets: Iterable[int]) -> None:
        """Move q(theta) of the given facets to the values that a fit has set in their priors. Without a q(theta) this
        does nothing.
        """
        if self.globals_guide is not None:
            move_to(self.globals_guide, self.model.starting_point(facets), self.model)

    @pyro_method
    def posteriors(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet: batch shape (N,), event shape (D_j,)."""
        return self.posteriors_of(*self.model.split_missing(x))

    @pyro_method
    def posteriors_of(self, filled: Tensor, observed: Tensor | None) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet, for data that `MultiFacetModel.split_missing` has split."""
        posteriors: list[dist.TorchDistribution] = self.encoder(self._encoder_input(filled, observed))
        return posteriors

    def encoder_input(self, x: Tensor) -> Tensor:
        """The encoder's input: ``x`` with 0 for missing elements, followed by the mask of observed elements if the
        encoder reads it.
        """
        return self._encoder_input(*self.model.split_missing(x))

    def _encoder_input(self, filled: Tensor, observed: Tensor | None) -> Tensor:
        filled = like_parameters(self.model.likelihood.encoder_input(filled), self.encoder)
        if observed is None or not self._reads_mask:
            return filled
        return torch.cat([filled, observed.to(filled.dtype)], dim=-len(self.model.event_shape))

    @pyro_method
    def assignment_logits(
        self,
        j: int,
        prior: Mixture,
        posterior: dist.TorchDistribution,
        z: Tensor,
        known: dict[int, Tensor] | None = None,
    ) -> Tensor:
        """Normalised logits of q(c_j | x), (…, K_j). Where ``known[j]``, int64 (N,), is not negative, this cluster has
        probability 1.
        """
        logits: Tensor = self.assignment(j, prior, posterior, z)
        if known is None or j not in known:
            return logits
        certain = torch.full_like(logits, IMPOSSIBLE)
        c = known[j].clamp_min(0).unsqueeze(-1).expand_as(logits[..., :1])
        return torch.where((known[j] >= 0).unsqueeze(-1), certain.scatter(-1, c, 0.0), logits)

    def cluster_probs(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, *, num_draws: int) -> Tensor:
        """q(c_j | x), (N, K_j). For a rule that depends on the drawn z it is the mean of q(c_j | x, z_j) over
        ``num_draws`` draws."""
        rule = self.assignment
        if not rule.needs_draw:
            probs: Tensor = rule(j, prior, posterior, posterior.mean).exp()
            return probs
        total, left = torch.zeros(()), num_draws
        while left > 0:
            z = posterior.sample((min(left, _DRAWS_AT_ONCE),))
            total = total.to(z.device) + rule(j, prior, posterior, z).exp().sum(0)
            left -= len(z)
        return total / num_draws


def _name_after(model: MultiFacetModel) -> str:
    model.num_guides += 1
    number = f"_{model.num_guides}" if model.num_guides > 1 else ""
    return f"{model._pyro_name}_guide{number}"


def _mark(model: MultiFacetModel) -> InferDict:
    """The ``infer`` entry that says which model a site belongs to. Pyro also passes on keys that its type does not
    list.
    """
    return cast(InferDict, {MODEL_TOKEN: model.token})


def _reads_mask(model: MultiFacetModel, encoder: LadderEncoder) -> bool:
    """Whether the encoder reads the mask of observed elements. Refuses an encoder that does not fit the model."""
    if encoder.facets != model.facets:
        raise InputError(
            f"expected an encoder of the model's facets {model.facets}, got one of {encoder.facets}: build both from "
            "one list"
        )
    shapes = {model.event_shape: "the data's"}
    if model.missing:
        shapes[with_mask(model.event_shape)] = "with the mask of observed elements"
    if encoder.in_shape not in shapes:
        expected = ", or ".join(f"{shape}, {meaning}" for shape, meaning in shapes.items())
        raise InputError(f"expected an encoder of in_shape {expected}, got {encoder.in_shape}: build it with that one")
    return encoder.in_shape != model.event_shape


def with_mask(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The ``in_shape`` (2C, …) of an encoder that reads the elements followed by the mask of observed elements."""
    first, *others = event_shape
    return (2 * first, *others)


def _check_rule(rule: AssignmentRule, priors: Sequence[FacetPrior], encoder: LadderEncoder) -> None:
    """Refuse a rule that needs a property that the priors or the encoder's family of q(z | x) do not have."""
    name = type(rule).__name__
    if rule.needs_moments and encoder.covariance is None:
        raise InputError(
            f"expected a Gaussian q(z | x), whose moments {name} reads, got an encoder with another family: take "
            f"SampleAssignment or MonteCarloAssignment"
        )
    for j, prior in enumerate(priors):
        if rule.needs_closed_form and not prior.has_closed_form(encoder.covariance):
            raise InputError(
                f"expected E[log p(z | c)] in closed form for {name}, got the {type(prior).__name__} of facet {j} "
                f"without it{_UNDER[encoder.covariance]}: take MonteCarloAssignment or SampleAssignment "
                "(assignment.kind=monte_carlo or sample)"
            )
