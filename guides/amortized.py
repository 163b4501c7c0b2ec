"""The amortised guide q(z, c | x) as a Pyro program."""

from collections.abc import Iterable, Sequence
from itertools import count

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, pyro_method
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides.assignments import AnalyticAssignment, AssignmentRule
from pyro_mfcvae.guides.encoders import LadderEncoder
from pyro_mfcvae.guides.globals import ConjugateGuide, GlobalGuide, move_to, typical_values
from pyro_mfcvae.models.generative import Known, MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture, PosteriorCovariance
from pyro_mfcvae.models.priors import FacetPrior

_serial = count()

# Log probability of the clusters that an item of a known cluster is not in: its exponential is 0 in every precision,
# and unlike minus infinity it gives no NaN when multiplied by that.
_IMPOSSIBLE = -1e4

_UNDER: dict[PosteriorCovariance | None, str] = {
    "diagonal": "",
    "full": " for a q(z | x) with a full covariance",
    None: " for a q(z | x) that is not Gaussian",
}


class MultiFacetGuide(PyroModule):
    """q(theta, z, c | x) = q(theta) prod_j q(z_j | x) q(c_j | x, theta).

        theta ~ globals_guide()                           the priors' random parameters, where there are any
        for n in plate("data", N):
            z_j ~ encoder(x)[j]                           j = 0 … J-1
            c_j ~ Categorical(assignment(j, …)),          enumerated by TraceEnum_ELBO; certain where it is known

    The clusters are enumerated on the guide's side: the decoder never sees an enumeration dimension, so the cost is
    the sum of the K_j and not their product.

    Args:
        model: the model it belongs to; it reads the priors and never registers the model's parameters as its own.
        encoder: a ladder encoder over the same facets. Of a model with missing elements it reads 0 for these; one with
            the ``in_shape`` `with_mask` reads which are observed as well.
        assignment: the rule for q(c_j | x); the analytic optimum by default.
        globals_guide: q(theta) over `MultiFacetModel.sample_globals`; a `ConjugateGuide` by default.
        name: prefix of the parameters' names in Pyro's parameter store; by default a fresh one, so that two guides of
            one model do not share parameters there.
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
        super().__init__(name if name is not None else f"{model._pyro_name}_guide_{next(_serial)}")
        if encoder.facets != model.facets:
            raise InputError(f"encoder and model must have the same facets: got {encoder.facets} and {model.facets}")
        shapes = {model.event_shape: "as the decoder's"}
        if model.missing:
            shapes[with_mask(model.event_shape)] = "with the mask of what is observed"
        if encoder.in_shape not in shapes:
            expected = ", or ".join(f"{shape}, {meaning}" for shape, meaning in shapes.items())
            raise InputError(f"the encoder's in_shape must be {expected}; got {encoder.in_shape}")
        self._reads_mask = encoder.in_shape != model.event_shape
        self.encoder = encoder
        self.assignment = assignment if assignment is not None else AnalyticAssignment()
        _check_rule(self.assignment, model.priors, encoder)
        # Inside a tuple the model is not a submodule, so its parameters stay its own.
        self._model = (model,)
        if model.global_sites and globals_guide is None:
            globals_guide = ConjugateGuide(model)
        self.globals_guide = globals_guide
        if globals_guide is not None:
            with poutine.block():
                covered = globals_guide().keys()  # Pyro's automatic guides make their parameters when first called
            if set(model.global_sites) != covered:
                raise InputError(
                    f"the priors have the global sites {model.global_sites}, but the globals_guide has "
                    f"{sorted(covered)}: make it of model.sample_globals, say AutoNormal(model.sample_globals)"
                )

    @property
    def model(self) -> MultiFacetModel:
        """The model it belongs to."""
        return self._model[0]

    @property
    def has_closed_form(self) -> bool:
        """Whether the KL has a closed form: every prior has one, and the rule does not look at the drawn z."""
        covariance = self.encoder.covariance
        return not self.assignment.needs_draw and all(p.has_closed_form(covariance) for p in self.model.priors)

    def forward(self, x: Tensor | None = None, *, num: int | None = None, known: Known | None = None) -> None:
        """Sample every z_j and c_j for the items ``x`` (N, *event_shape), of which some clusters may be ``known``."""
        if x is None:
            raise InputError("the guide is q(z, c | x): pass it the data x")
        model = self.model
        priors = self.sample_globals()
        with model.plate(model.check_items(x, num, known)):
            for j, (prior, posterior) in enumerate(zip(priors, self.posteriors(x), strict=True)):
                with model.kl_weight(j):
                    z = pyro.sample(latent_site(j), posterior)
                    c = dist.Categorical(logits=self.assignment_logits(j, prior, posterior, z, known))
                    pyro.sample(cluster_site(j), c, infer={"enumerate": "parallel"})

    @pyro_method
    def sample_globals(self) -> Sequence[Mixture]:
        """Draw theta ~ q(theta); the priors at that value, or as they are where nothing in them is random."""
        return self.model.priors_given({} if self.globals_guide is None else self.globals_guide())

    def typical_priors(self) -> Sequence[Mixture]:
        """The priors at the median of q(theta)."""
        return self.model.priors_given(
            {} if self.globals_guide is None else typical_values(self.globals_guide, self.model)
        )

    def restart_globals(self, facets: Iterable[int]) -> None:
        """Move q(theta) of some facets to where their priors stand, which were fitted; nothing without q(theta)."""
        if self.globals_guide is not None:
            move_to(self.globals_guide, self.model.starting_point(facets), self.model)

    @pyro_method
    def posteriors(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet: batch shape (N,), event shape (D_j,)."""
        posteriors: list[dist.TorchDistribution] = self.encoder(self.encoder_input(x))
        return posteriors

    def encoder_input(self, x: Tensor) -> Tensor:
        """What the encoder reads: ``x`` with 0 for missing elements, then, if it reads the mask, 1 for all others."""
        filled, observed = self.model.split_missing(x)
        filled = self.model.likelihood.encoder_input(filled)
        if observed is None or not self._reads_mask:
            return filled
        return torch.cat([filled, observed.to(x.dtype)], dim=-len(self.model.event_shape))

    @pyro_method
    def assignment_logits(
        self,
        j: int,
        prior: Mixture,
        posterior: dist.TorchDistribution,
        z: Tensor,
        known: Known | None = None,
    ) -> Tensor:
        """Normalised logits of q(c_j | x), (…, K_j), detached where the rule is at the optimum of the objective."""
        rule = self.assignment
        with torch.set_grad_enabled(torch.is_grad_enabled() and not rule.is_optimum):
            logits: Tensor = rule(j, prior, posterior, z)
        if known is None or j not in known:
            return logits
        certain = torch.full_like(logits, _IMPOSSIBLE)
        c = known[j].clamp_min(0).unsqueeze(-1).expand_as(logits[..., :1])
        return torch.where((known[j] >= 0).unsqueeze(-1), certain.scatter(-1, c, 0.0), logits)


def with_mask(event_shape: Sequence[int]) -> tuple[int, ...]:
    """The ``in_shape`` of an encoder that reads which elements are observed, after the elements: (2C, …)."""
    first, *others = event_shape
    return (2 * first, *others)


def _check_rule(rule: AssignmentRule, priors: Sequence[FacetPrior], encoder: LadderEncoder) -> None:
    """Refuse a rule that asks for what the priors or the encoder's family of q(z | x) do not have."""
    name = type(rule).__name__
    if rule.needs_moments and encoder.covariance is None:
        raise InputError(
            f"{name} reads the moments of a Gaussian q(z | x), and this encoder's is not Gaussian: take "
            "SampleAssignment or MonteCarloAssignment"
        )
    for j, prior in enumerate(priors):
        if rule.needs_closed_form and not prior.has_closed_form(encoder.covariance):
            raise InputError(
                f"{name} needs E[log p(z | c)] in closed form, which the {type(prior).__name__} of facet {j} has not"
                f"{_UNDER[encoder.covariance]}: take MonteCarloAssignment or SampleAssignment "
                "(assignment.kind=monte_carlo or sample)"
            )
