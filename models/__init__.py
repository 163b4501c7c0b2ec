"""The generative side: priors p(c), p(z | c), likelihoods and decoders p(x | z), and the Pyro model made of them."""

from pyro_mfcvae.models.bayesian import BayesianMixturePrior
from pyro_mfcvae.models.decoders import ConvLadderDecoder, LadderDecoder, MLPLadderDecoder
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    Likelihood,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StandardizedGaussianLikelihood,
)
from pyro_mfcvae.models.mixture_priors import MixturePrior, StudentTMixturePrior
from pyro_mfcvae.models.mixtures import Mixture, register_closed_form
from pyro_mfcvae.models.priors import FacetPrior, StandardNormalPrior
from pyro_mfcvae.models.vamp import VampPrior

__all__ = [
    "BayesianMixturePrior",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "ConvLadderDecoder",
    "DiscretizedLogisticLikelihood",
    "FacetPrior",
    "GaussianLikelihood",
    "LadderDecoder",
    "Likelihood",
    "MLPLadderDecoder",
    "Mixture",
    "MixturePrior",
    "MultiFacetModel",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "StandardNormalPrior",
    "StandardizedGaussianLikelihood",
    "StudentTMixturePrior",
    "VampPrior",
    "register_closed_form",
]
