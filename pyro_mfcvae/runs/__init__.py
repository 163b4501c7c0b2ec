"""Run folders: fit, resume and evaluate runs, for one seed or many."""

from pyro_mfcvae.runs.evaluation import Evaluation, evaluate
from pyro_mfcvae.runs.fit import Fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.sweep import Sweep

__all__ = ["Evaluation", "Fit", "RunFolder", "Sweep", "evaluate"]
