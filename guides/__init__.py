"""The variational side: encoders q(z | x), assignment rules q(c | x), and the Pyro guide made of them."""

from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.guides.assignments import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MonteCarloAssignment,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.guides.encoders import ConvLadderEncoder, LadderEncoder, MLPLadderEncoder

__all__ = [
    "AmortizedAssignment",
    "AnalyticAssignment",
    "AssignmentRule",
    "ConvLadderEncoder",
    "LadderEncoder",
    "MLPLadderEncoder",
    "MonteCarloAssignment",
    "MultiFacetGuide",
    "SampleAssignment",
    "VaDEAssignment",
]
