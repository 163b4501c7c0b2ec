"""Pairs with all kinds of parameters, their values before and after, and queries."""

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.optim import Adam
from torch import Tensor, nn

from pyro_mfcvae import MFCVAE, FacetELBO, ImportanceWeightedELBO
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    GaussianLikelihood,
    MLPLadderDecoder,
    MultiFacetModel,
)

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
MakeX = Callable[[int], Tensor]
Values = dict[str, Tensor]


def bayesian_pair(name: str | None = None) -> MFCVAE:
    facet = Facet(num_clusters=3, latent_dim=2)
    decoder = MLPLadderDecoder([facet], (1, 2, 3), rung_dims=(9,), hidden_dim=8)
    model = MultiFacetModel([BayesianMixturePrior(facet)], decoder, GaussianLikelihood(), name=name)
    return MFCVAE(model, MultiFacetGuide(model, encoder=MLPLadderEncoder([facet], (1, 2, 3), rung_dims=(9,))))


def state(module: nn.Module) -> Values:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module: nn.Module, before: Values) -> list[str]:
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


def fit(pair: MFCVAE, x: Tensor, num: int = 3, loss: Any = None) -> list[float]:
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.02}), loss or FacetELBO())
    return [svi.step(x) for _ in range(num)]


QUESTIONS: dict[str, Callable[[MFCVAE, Tensor], Any]] = {
    "elbo_terms": lambda pair, x: pair.elbo_terms(x),
    "FacetELBO": lambda pair, x: FacetELBO().loss(pair.model, pair.guide, x),
    "ImportanceWeightedELBO": lambda pair, x: ImportanceWeightedELBO().loss(pair.model, pair.guide, x),
    "TraceEnum_ELBO": lambda pair, x: TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x),
    "Predictive": lambda pair, x: Predictive(pair.model, num_samples=2)(num=3),
    "the guide": lambda pair, x: pair.guide(x),
}


def make_pair_of_all_kinds(make_pair: MakePair, **settings: Any) -> MFCVAE:
    """A pair whose prior scales and likelihood scale are constrained parameters."""
    return MFCVAE(*make_pair(likelihood=GaussianLikelihood(scale=0.5, learn_scale=True), **settings))
