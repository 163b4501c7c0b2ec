"""The variational side: encoders q(z | x), assignment rules q(c | x), and the Pyro guide made of them."""

from pyro_mfcvae.guides.amortized import MultiFacetGuide, with_mask
from pyro_mfcvae.guides.assignments import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MonteCarloAssignment,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.guides.encoders import ConvLadderEncoder, LadderEncoder, MLPLadderEncoder, SeparateEncoder
from pyro_mfcvae.guides.globals import ConjugateGuide
from pyro_mfcvae.guides.posteriors import FlowHead, FullCovarianceHead, GaussianHead, LowRankHead, PosteriorHead

__all__ = [
    "AmortizedAssignment",
    "AnalyticAssignment",
    "AssignmentRule",
    "ConjugateGuide",
    "ConvLadderEncoder",
    "FlowHead",
    "FullCovarianceHead",
    "GaussianHead",
    "LadderEncoder",
    "LowRankHead",
    "MLPLadderEncoder",
    "MonteCarloAssignment",
    "MultiFacetGuide",
    "PosteriorHead",
    "SampleAssignment",
    "SeparateEncoder",
    "VaDEAssignment",
    "with_mask",
]
