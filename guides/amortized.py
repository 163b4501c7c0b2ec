"""The amortised guide q(z, c | x) as a Pyro program."""

from itertools import count

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, pyro_method
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides.assignments import AnalyticAssignment, AssignmentRule
from pyro_mfcvae.guides.encoders import LadderEncoder
from pyro_mfcvae.models.generative import MultiFacetModel

_serial = count()


class MultiFacetGuide(PyroModule):
    """q(z, c | x) = prod_j q(z_j | x) q(c_j | x).

        for n in plate("data", N):
            z_j ~ encoder(x)[j]                           j = 0 … J-1
            c_j ~ Categorical(assignment(j, …)),          enumerated by TraceEnum_ELBO

    The clusters are enumerated on the guide's side: the decoder never sees an enumeration dimension, so the cost is
    the sum of the K_j and not their product.

    Args:
        model: the model it belongs to; it reads the priors and never registers the model's parameters as its own.
        encoder: a ladder encoder over the same facets.
        assignment: the rule for q(c_j | x); the analytic optimum by default.
        name: prefix of the parameters' names in Pyro's parameter store; by default a fresh one, so that two guides of
            one model do not share parameters there.
    """

    def __init__(
        self,
        model: MultiFacetModel,
        *,
        encoder: LadderEncoder,
        assignment: AssignmentRule | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name if name is not None else f"{model._pyro_name}_guide_{next(_serial)}")
        if encoder.facets != model.facets:
            raise InputError(f"encoder and model must have the same facets: got {encoder.facets} and {model.facets}")
        if encoder.in_shape != model.event_shape:
            raise InputError(
                f"encoder and decoder must have the same event shape: got {encoder.in_shape} and {model.event_shape}"
            )
        self.encoder = encoder
        self.assignment = assignment if assignment is not None else AnalyticAssignment()
        for j, prior in enumerate(model.priors):
            if self.assignment.needs_closed_form and not prior.has_closed_form:
                raise InputError(
                    f"{type(self.assignment).__name__} needs E[log p(z | c)] in closed form, which the "
                    f"{type(prior).__name__} of facet {j} has not: take MonteCarloAssignment or SampleAssignment"
                )
        # Inside a tuple the model is not a submodule, so its parameters stay its own.
        self._model = (model,)

    @property
    def model(self) -> MultiFacetModel:
        """The model it belongs to."""
        return self._model[0]

    @property
    def has_closed_form(self) -> bool:
        """Whether the KL has a closed form: every prior has one, and the rule does not look at the drawn z."""
        return not self.assignment.needs_draw and all(prior.has_closed_form for prior in self.model.priors)

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> None:
        """Sample every z_j and c_j for the items ``x`` (N, *event_shape)."""
        if x is None:
            raise InputError("the guide is q(z, c | x): pass it the data x")
        model = self.model
        with model.plate(model.check_items(x, num)):
            for j, posterior in enumerate(self.posteriors(x)):
                with model.kl_weight(j):
                    z = pyro.sample(latent_site(j), posterior)
                    c = dist.Categorical(logits=self.assignment_logits(j, posterior, z))
                    pyro.sample(cluster_site(j), c, infer={"enumerate": "parallel"})

    @pyro_method
    def posteriors(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) per facet: batch shape (N,), event shape (D_j,)."""
        filled, _ = self.model.split_missing(x)
        posteriors: list[dist.TorchDistribution] = self.encoder(filled)
        return posteriors

    @pyro_method
    def assignment_logits(self, j: int, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        """Normalised logits of q(c_j | x), (…, K_j), detached where the rule is at the optimum of the objective."""
        rule = self.assignment
        with torch.set_grad_enabled(torch.is_grad_enabled() and not rule.is_optimum):
            logits: Tensor = rule(j, self.model.priors[j], posterior, z)
        return logits
