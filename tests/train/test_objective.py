from collections.abc import Callable

import pyro
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import MFCVAE, ImportanceWeightedELBO, InputError
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.models import MultiFacetModel
from pyro_mfcvae.train.objective import ImportanceObjective
from pyro_mfcvae.train.training import Training

BASE = Config(data=DataConfig(source="none"))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_importance_weighted_loss_is_that_of_the_elbo_class(
    alpha: float, make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]], make_x: Callable[[int], Tensor]
) -> None:
    model, guide = make_pair(2)
    x = make_x(6)
    pyro.set_rng_seed(1)
    loss, terms = ImportanceObjective(MFCVAE(model, guide), num_items=6, num_particles=5, alpha=alpha)(x)
    pyro.set_rng_seed(1)
    expected = ImportanceWeightedELBO(num_particles=5, alpha=alpha).loss(model, guide, x)
    assert loss.item() == pytest.approx(expected / 6, rel=1e-12)
    assert terms[0].item() == -loss.item()
    assert terms.shape == (4,)
    # With one draw the bound is the reconstruction minus the KLs.
    loss, terms = ImportanceObjective(MFCVAE(model, guide), num_items=6, num_particles=1)(x)
    assert -loss.item() == pytest.approx((terms[1] - terms[2:].sum()).item(), rel=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        ["training.objective=importance_weighted", "training.num_particles=3"],
        ["likelihood=negative_binomial", "likelihood.dispersion=2.0"],
        ["likelihood=poisson"],
        ["likelihood=categorical", "likelihood.num_categories=3"],
        ["prior=bayesian", "prior.globals_guide=normal"],
        ["prior=bayesian", "prior.globals_guide=multivariate_normal"],
    ],
    ids=" ".join,
)
def test_what_a_configuration_can_name_trains(settings: list[str]) -> None:
    small = ["facets.num_clusters=[3, 4]", "facets.latent_dim=[2, 2]", "networks.encoder_dims=[8, 8]"]
    small += ["networks.decoder_dims=[8, 8]", "training.epochs=[6, 6]", "training.batch_size=20"]
    small += ["networks.hidden_dim=8", "training.learning_rate=0.01", "training.compile=false"]
    config = override(override(BASE, small), settings)
    pair = build_pair(config, (1, 2, 3))
    images = torch.randint(0, 2, (60, 1, 2, 3)).double()
    schedule = build_schedule(config, 3)
    training = Training(pair, images, schedule=schedule, settings=config.training, mixture_fit=config.mixture_fit)
    elbos = [training.run_epoch().elbo for _ in range(12)]
    assert elbos[5] > elbos[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["training.num_particles=3"],
            'expected no num_particles with training.objective = "elbo", got 3: leave it out',
        ),
        (
            ["training.objective=importance_weighted", "training.free_nats=1"],
            'expected no free_nats with training.objective = "importance_weighted", got 1.0: leave it out',
        ),
        (
            ["training.objective=importance_weighted", "supervision.label=digit"],
            "expected training.objective=elbo with supervision.label, got importance_weighted: known clusters do not",
        ),
    ],
)
def test_settings_of_the_other_objective_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(BASE, settings)
