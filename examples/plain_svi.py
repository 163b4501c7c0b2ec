"""Two clusterings of the embedded images with Pyro's own SVI: a pair, a schedule, an optimiser, a loss, a loop.

python examples/plain_svi.py                 # closed-form loss
python examples/plain_svi.py --trace-enum    # Pyro's TraceEnum_ELBO, clusters enumerated in the guide
"""

import sys

import pyro
import torch
from pyro.infer import ELBO, SVI, TraceEnum_ELBO
from pyro.optim import CosineAnnealingLR

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, ProgressiveSchedule, initialize_mixtures
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.guides import ConvLadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import ConvLadderDecoder, GaussianLikelihood, MixturePrior, MultiFacetModel
from pyro_mfcvae.runs.evaluation import Evaluation, evaluate


def train(loss: ELBO, *, stage_steps: tuple[int, int] = (468, 780), seed: int = 0) -> Evaluation:
    pyro.set_rng_seed(seed)
    data = load_dataset("shapes", seed=seed)
    facets = (Facet(num_clusters=30, latent_dim=8), Facet(num_clusters=20, latent_dim=3))
    decoder = ConvLadderDecoder(facets, data.event_shape, channels=(16, 32))
    encoder = ConvLadderEncoder(facets, data.event_shape, channels=(16, 32))
    priors = [MixturePrior(f, covariance="full") for f in facets]
    model = MultiFacetModel(priors, decoder, GaussianLikelihood(scale=0.5))
    guide = MultiFacetGuide(model, encoder=encoder)
    pair = MFCVAE(model, guide).to("cuda" if torch.cuda.is_available() else "cpu")

    x = as_float(data.train.images).to(model.alpha.device)
    schedule = ProgressiveSchedule(
        stage_steps=stage_steps, fade_in_steps=200, warmup_steps=200, refit_steps=(400, 600, 750)
    )
    adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 3e-3}, "T_max": schedule.num_steps, "eta_min": 2e-4}
    optim = CosineAnnealingLR(adam)
    svi = SVI(model, guide, optim, loss=loss)
    for step in range(schedule.num_steps):
        initialize_mixtures(model, guide, x[:6000], facets=schedule.apply(model, step), seed=seed)
        svi.step(x[torch.randint(len(x), (128,), device=x.device)])
        optim.step()
    return evaluate(pair, data.test)


if __name__ == "__main__":
    pyro.enable_validation(False)
    scores = train(TraceEnum_ELBO(max_plate_nesting=1) if "--trace-enum" in sys.argv else FacetELBO()).scores
    for label, facet in scores.best_facets().items():
        print(f"{label}: facet {facet}, accuracy {scores.accuracy[label][facet]:.3f}")
