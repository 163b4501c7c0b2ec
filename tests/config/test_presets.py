from typing import Any

import pytest

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import DEFAULT, load_preset, override, preset_names
from pyro_mfcvae.data.datasets import DATASETS
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch


def num_items(config: Config) -> int:
    """The number of training items in a preset's data."""
    num = DATASETS[config.data.source].num_items
    assert num is not None
    return num


def test_names_are_sorted_and_hold_the_default() -> None:
    assert preset_names() == sorted(preset_names())
    assert DEFAULT in preset_names()


def test_an_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(InputError, match=r"^expected a preset out of .*shapes.*, got 'nope': choose one"):
        load_preset("nope")


def test_the_name_of_a_preset_is_not_a_path() -> None:
    with pytest.raises(InputError, match=r"got '\.\./presets/shapes': choose one of them"):
        load_preset("../presets/shapes")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_a_description_of_one_line(name: str) -> None:
    description = load_preset(name).description
    assert description
    assert "\n" not in description


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_fits_its_data(name: str) -> None:
    config = load_preset(name)
    info = DATASETS[config.data.source]
    assert config.likelihood.kind == info.likelihood
    assert info.event_shape is not None
    pair = build_pair(config, info.event_shape)
    schedule = build_schedule(config, steps_per_epoch(num_items(config), config.training.batch_size))
    assert pair.num_facets == schedule.num_facets
    assert min(config.mixture_fit.items, num_items(config)) >= max(config.facets.num_clusters)
    last = schedule.num_steps - 1
    assert schedule.alpha(0, last) == schedule.beta(0, last) == 1.0  # every facet is completely faded in
    # A refit after the end of every stage would never happen.
    assert all(steps < max(schedule.stage_steps) for steps in config.mixture_fit.refit_steps)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.5, 2.0])
def test_a_preset_can_be_run_through_in_less_time_or_more(name: str, scale: float) -> None:
    config = override(load_preset(name), [f"schedule.scale={scale}"])
    schedule = build_schedule(config, steps_per_epoch(num_items(config), config.training.batch_size))
    last = schedule.num_steps - 1
    assert schedule.alpha(0, last) == schedule.beta(0, last) == 1.0


# Falck et al. 2021, as the authors published their configurations; facets shallow, deep.
CONV = {
    "networks.num_residual_blocks": 0,
    "networks.gated": False,
    "networks.kind": "conv",
    "networks.channels": (64, 128),
    "facets.num_clusters": (60, 20),
    "facets.latent_dim": (20, 2),
    "prior.covariance": "full",
    "prior.learn_weights": False,
    "likelihood.kind": "gaussian",
    "likelihood.scale": 0.6,
    "likelihood.sigmoid_mean": False,
    "likelihood.learn_scale": False,
    "training.learning_rate": 3e-4,
    "training.batch_size": 150,
    "training.epochs": (101, 301),
    "schedule.fade_in_steps": 2000,
    "training.data_dependent_init": True,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "mnist-paper": {
        "data.source": "mnist",
        "networks.kind": "mlp",
        "networks.encoder_dims": (500, 2000),
        "networks.decoder_dims": (500, 2000),
        "networks.hidden_dim": 500,
        "networks.merge_weight": 0.1,
        "facets.num_clusters": (25, 25),
        "facets.latent_dim": (5, 5),
        "prior.covariance": "diagonal",
        "prior.learn_weights": True,
        "likelihood.kind": "bernoulli",
        "training.learning_rate": 5e-4,
        "training.batch_size": 512,
        "training.epochs": (201, 201),
        "schedule.fade_in_steps": 15000,
        "training.data_dependent_init": False,
    },
    "shapes3d-floor-paper": {"data.source": "shapes3d-floor"} | CONV,
    "shapes3d-wall-paper": {"data.source": "shapes3d-wall"} | CONV,
    "svhn-paper": {"data.source": "svhn"}
    | CONV
    | {
        "facets.num_clusters": (200, 50),
        "facets.latent_dim": (22, 7),
        "likelihood.scale": 0.3,
        "likelihood.sigmoid_mean": True,
        "training.learning_rate": 5e-4,
        "schedule.fade_in_steps": 15000,
    },
}
# The same in all four: Adam without decay, and the mixture fitted to means when a facet joins, with variance 0.01.
SHARED: dict[str, Any] = {
    "assignment.kind": "sample",
    "networks.head_init_scale": 1.0,
    "training.final_learning_rate": None,
    "schedule.kl_fade_in_steps": None,
    "schedule.kl_weights": None,
    "mixture_fit.joint_refit_steps": (),
    "mixture_fit.warmup_steps": 0,
    "mixture_fit.refit_steps": (),
    "mixture_fit.variance": 0.01,
}


def test_every_paper_preset_is_compared_with_the_published_settings() -> None:
    assert set(PUBLISHED) == {name for name in preset_names() if name.endswith("-paper")}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_paper_preset_has_the_published_settings_one_by_one(name: str) -> None:
    config = load_preset(name)
    for setting, expected in (PUBLISHED[name] | SHARED).items():
        value: Any = config
        for part in setting.split("."):
            value = value.options[part] if part in getattr(value, "options", {}) else getattr(value, part)
        assert value == expected, setting
