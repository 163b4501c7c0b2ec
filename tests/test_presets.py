import pytest

from pyro_mfcvae.build import build_pair, build_schedule
from pyro_mfcvae.datasets import DATASETS
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.presets import DEFAULT, load_preset, preset_names
from pyro_mfcvae.training import steps_per_epoch

NUM_TRAINING_ITEMS = {
    "shapes": 20_000,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "stickfigures": 900,
    "nrletters": 10_000,
}


def test_names_are_sorted_and_hold_the_default() -> None:
    assert preset_names() == sorted(preset_names())
    assert DEFAULT in preset_names()


def test_an_unknown_preset_is_told_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown preset 'nope': expected one of .*shapes"):
        load_preset("nope")


def test_a_preset_is_no_path() -> None:
    with pytest.raises(InputError, match=r"unknown preset '\.\./presets/shapes'"):
        load_preset("../presets/shapes")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_what_it_is_in_one_line(name: str) -> None:
    description = load_preset(name).description
    assert description
    assert "\n" not in description


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_fits_its_data(name: str) -> None:
    config = load_preset(name)
    info = DATASETS[config.data]
    assert config.likelihood.kind == info.likelihood
    assert info.event_shape is not None
    pair = build_pair(config, info.event_shape)
    schedule = build_schedule(config, steps_per_epoch(NUM_TRAINING_ITEMS[config.data], config.training.batch_size))
    assert pair.num_facets == schedule.num_facets
    assert min(config.training.fit_items, NUM_TRAINING_ITEMS[config.data]) >= max(config.facets.num_clusters)
    last = schedule.num_steps - 1
    assert schedule.alpha(0, last) == schedule.beta(0, last) == 1.0  # every facet is faded in completely
    # A refit past every stage would never happen.
    assert all(steps < max(schedule.stage_steps) for steps in config.training.refit_steps)
