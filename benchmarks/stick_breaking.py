"""The number of clusters that a stick-breaking prior uses on data from a model with a known number of clusters.

    python benchmarks/stick_breaking.py

The data are 4,000 draws of the model: weights ~ Dirichlet(5), z | c ~ Normal(loc_c, 0.35²) in two dimensions, loc
uniform in a square with a distance of at least 2.4 between any two, a decoder with random weights, x | z ~
Normal(decoder(z), 0.1) in 20 dimensions. A new model of one facet with 30 clusters is fitted for 40 epochs. A cluster
is in use if it is the most probable cluster of at least 1 in 200 items.
"""

import json

import pyro
import torch
import tyro
from provenance import provenance
from reproduction import RESULTS
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.train.training import Training

NUM_ITEMS, EPOCHS, BATCH = 4000, 40, 100
SETTINGS = [
    "facets.num_clusters=[30]",
    "facets.latent_dim=[2]",
    "prior=bayesian",
    "prior.covariance=full",
    'prior.random=["probs"]',
    "prior.stick_breaking=true",
    "likelihood=gaussian",
    "likelihood.scale=0.1",
    "networks.encoder_dims=[128]",
    "networks.decoder_dims=[128]",
    "networks.hidden_dim=128",
    f"training.epochs=[{EPOCHS}]",
    f"training.batch_size={BATCH}",
    "training.learning_rate=3e-3",
    "training.final_learning_rate=1e-4",
    "mixture_fit.warmup_steps=400",
    "mixture_fit.refit_steps=[800, 1200]",
    "mixture_fit.items=500",
]


def draw(num_clusters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw items (N, 1, 1, 20) and their clusters from a model with ``num_clusters`` clusters and a random decoder."""
    pyro.set_rng_seed(1000 * num_clusters + seed)
    side, means = 2.4 * num_clusters**0.5 + 1.5, torch.empty(0, 2)
    while len(means) < num_clusters:
        candidate = side * (torch.rand(1, 2) - 0.5)
        if not len(means) or torch.cdist(means, candidate).min() > 2.4:
            means = torch.cat([means, candidate])
    covariances = 0.35**2 * torch.eye(2).expand(num_clusters, 2, 2)
    probs = torch.distributions.Dirichlet(torch.full((num_clusters,), 5.0)).sample()
    settings = [*SETTINGS, "prior=gaussian", f"facets.num_clusters=[{num_clusters}]"]
    model = build_pair(override(Config(data=DataConfig(source="none")), settings), (1, 1, 20)).model
    model.priors[0].set_mixture(means, covariances, probs=probs)
    with torch.no_grad():
        c, z = model.priors[0]().sample(NUM_ITEMS)
        model.decoder.output.weight /= model.decode([z]).std()  # scaled like standardised data
        return model.observation([z]).sample(), c


def train(x: Tensor, concentration: float, seed: int) -> MFCVAE:
    pyro.set_rng_seed(seed)
    config = override(Config(data=DataConfig(source="none")), [*SETTINGS, f"prior.concentration={concentration}"])
    pair = build_pair(config, x.shape[1:])
    steps = NUM_ITEMS // BATCH
    schedule = build_schedule(config, steps)
    training = Training(pair, x, schedule=schedule, settings=config.training, mixture_fit=config.mixture_fit, seed=seed)
    for _ in range(EPOCHS):
        training.run_epoch()
    return pair.eval()


def main(
    true: tuple[int, ...] = (3, 5, 12), seeds: tuple[int, ...] = tuple(range(10)), concentration: float = 1.0
) -> None:
    """Fit every number of true clusters with every seed.

    Args:
        true: True numbers of clusters in the data.
        seeds: The seeds, of data and training.
        concentration: Concentration of the sticks.
    """
    results = []
    for num_clusters in true:
        used, agreement = [], []
        for seed in seeds:
            x, c = draw(num_clusters, seed)
            pair = train(x, concentration, seed)
            with torch.no_grad():
                found = pair.assign(x)[0].argmax(-1)
            used.append(int((found.bincount() >= NUM_ITEMS / 200).sum()))
            agreement.append(round(float(adjusted_rand_score(c.numpy(), found.numpy())), 3))
            print(f"{num_clusters} clusters, seed {seed}: {used[-1]} in use, ARI {agreement[-1]:.3f}", flush=True)
        right = sum(abs(n - num_clusters) <= 1 for n in used)
        print(f"{num_clusters} clusters: within 1 for {right} of {len(seeds)} seeds", flush=True)
        results.append({"true": num_clusters, "in_use": used, "ari": agreement, "within_one": right})
    record = {"settings": SETTINGS, "concentration": concentration, **provenance(), "seeds": list(seeds)}
    write_text(RESULTS / "stick_breaking.json", json.dumps({**record, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
