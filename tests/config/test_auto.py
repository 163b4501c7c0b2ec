"""The preset auto: the settings that it chooses, the data that it refuses, and settings that replace its choices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mfcvae import InputError
from pyro_mfcvae.config.auto import choose_settings, configure_auto
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import takes_auto

EQUAL = "facets.latent_dim=[2, 2]"  # without a search for the dimensions


def test_the_scale_follows_from_the_spectrum_for_bytes_and_for_floats() -> None:
    images = torch.zeros(3000, 1, 10, 10)
    images[::2] = 1.0  # one direction, of standard deviation 5
    config = choose_settings(images, source="x", settings=[EQUAL]).config
    assert config.likelihood.kind == "gaussian"
    assert config.likelihood.options["scale"] == pytest.approx(5 / 4, rel=5e-3)
    assert not config.likelihood.options["standardize"]
    bytes_config = choose_settings((255 * images).to(torch.uint8), source="x", settings=[EQUAL]).config
    assert bytes_config.likelihood == config.likelihood


def test_the_reason_never_names_more_nats_than_the_limit() -> None:
    """The scale is rounded to three digits, here down from 1.0045, so the variance would be worth 404 nats."""
    x = torch.randn(400, 1, 30, 30, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean(0)) * (1.0045**2 * 800 / x.var(0, correction=0).sum()).sqrt()
    chosen = choose_settings(x, source="x", settings=[EQUAL])
    assert chosen.config.likelihood.options["scale"] == 1.0
    assert "(807 in all) is worth 400 nats, of 400 at most" in chosen.reasons[0]


def test_vectors_are_standardised() -> None:
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    options = choose_settings(x, source="x", settings=[EQUAL]).config.likelihood.options
    assert options["standardize"]
    assert choose_settings(1000 * x - 5, source="x", settings=[EQUAL]).config.likelihood.options == options


def test_small_images_and_vectors_get_linear_layers_and_larger_images_convolutions() -> None:
    kinds = {
        shape: choose_settings(torch.rand(60, *shape), source="x", settings=[EQUAL]).config.networks.kind
        for shape in ((30,), (1, 20, 20), (3, 64, 48), (1, 60, 20))
    }
    assert kinds == {(30,): "mlp", (1, 20, 20): "mlp", (3, 64, 48): "conv", (1, 60, 20): "mlp"}


@pytest.mark.parametrize(
    ("num", "clusters", "batch", "least"),
    [(100, 5, 64, 1350), (1000, 20, 64, 2400), (5000, 20, 128, 3589)],
)
def test_the_number_of_items_decides_clusters_batches_and_epochs(
    num: int, clusters: int, batch: int, least: int
) -> None:
    settings = ["facets.latent_dim=[1, 1, 1]"]  # without a search for the dimensions
    config = choose_settings(torch.rand(num, 4), source="x", num_facets=3, settings=settings).config
    assert config.facets.num_clusters == (clusters,) * 3
    assert config.training.batch_size == batch
    per_epoch = max(num // batch, 1)
    *earlier, last = config.stage_epochs
    assert earlier == [0, 0]  # all facets train from the first step
    assert 0 <= last * per_epoch - least < per_epoch
    schedule = build_schedule(config, per_epoch)
    assert schedule.fit_steps()[0] == 0
    assert schedule.linear_start_steps == pytest.approx(last * per_epoch * 400 / 1900, abs=1)


def test_many_items_get_more_steps() -> None:
    config = choose_settings(torch.rand(81_000, 4), source="x", settings=[EQUAL]).config
    assert config.stage_epochs == (0, 10)  # 1900 · 3 = 5700 steps, of 632 an epoch


def test_the_printed_steps_are_those_of_the_schedule() -> None:
    images = torch.rand(640, 1, 6, 6)
    # 10 steps an epoch; 400 / 1900 of them for the linear start
    settings = [EQUAL, "training.epochs=10", "schedule.scale=0.5"]
    chosen = choose_settings(images, source="x", settings=settings)
    schedule = build_schedule(chosen.config, 10)
    said = (
        f"schedule: {schedule.linear_start_steps} steps of a linear start, then {schedule.num_steps} steps of 64 items"
    )
    assert chosen.reasons[-1] == said
    assert schedule.num_steps == 50


def test_given_settings_replace_those_from_the_data() -> None:
    chosen = choose_settings(
        torch.rand(60, 4), source="x", settings=["likelihood.scale=0.5", "networks.posterior=full"], seed=3
    )
    assert chosen.config.likelihood.options["scale"] == 0.5
    assert (chosen.config.seed, len(chosen.reasons)) == (3, 5)
    assert build_pair(chosen.config, (4,)).num_facets == 2


def test_several_facets_are_kept_independent_by_a_penalty_on_the_elbo() -> None:
    images = torch.rand(400, 1, 6, 6)
    several = choose_settings(images, source="x", num_facets=2, settings=[EQUAL]).config.training
    assert (several.objective, several.independence) == ("elbo", 30.0)
    assert choose_settings(images, source="x", num_facets=1).config.training.independence == 0.0
    for settings, expected in (
        (["training.objective=importance_weighted"], 0.0),
        (["training.objective=elbo"], 30.0),
        (["training.independence=2"], 2.0),
    ):
        chosen = choose_settings(images, source="x", settings=[EQUAL, *settings])
        assert chosen.config.training.independence == expected


def test_one_facet_starts_linearly_too() -> None:
    config = choose_settings(torch.rand(1000, 4), source="x", num_facets=1).config
    assert build_schedule(config, 15).fit_steps() == (0, 300, 701, 1203)


def test_a_characteristic_with_few_values_gets_few_dimensions() -> None:
    """One characteristic has three values in two directions, the other eight values in nine: the first gets three
    dimensions, not six.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [
        20 * torch.randn(num, dim, generator=generator)[torch.randint(num, (400,), generator=generator)]
        for num, dim in ((3, 2), (8, 9))
    ]
    x = torch.cat(parts, 1) + torch.randn(400, 11, generator=generator)
    chosen = choose_settings(x, source="x", settings=["facets.num_clusters=[8, 8]"])
    assert chosen.config.facets.latent_dim == (3, 9)
    assert chosen.reasons[2] == "facets: 2, of 3 and 9 dimensions; facets.number=3 asks for three"
    given = choose_settings(x, source="x", settings=["facets.latent_dim=[6, 6]"])
    assert given.config.facets.latent_dim == (6, 6)


@pytest.mark.parametrize(
    ("images", "num_facets", "message"),
    [
        (torch.rand(9, 4), 2, "expected at least 10 items to find clusters in, got 9: give more"),
        (torch.ones(50, 4), 2, "expected items that differ, got items that are all alike: check the data"),
        (torch.rand(50, 4), 0, "expected facets.number of 1 or more, got 0: choose how many clusterings you want"),
    ],
)
def test_auto_refuses_invalid_data_and_settings(images: torch.Tensor, num_facets: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_settings(images, source="x", num_facets=num_facets)


def test_data_without_a_preset_take_auto() -> None:
    assert takes_auto(None, "photos/")
    assert takes_auto("auto", "mnist")
    assert not takes_auto(None, "mnist")
    assert not takes_auto("shapes", "photos/")
    assert not takes_auto(None, None)


@pytest.mark.usefixtures("place")
def test_a_number_of_facets_is_enough() -> None:
    config, dataset, reasons = configure_auto("data.npz", ["facets.number=3", "seed=4"], None)
    assert (len(config.facets.num_clusters), config.seed, len(dataset.train), len(reasons)) == (3, 4, 80, 5)
    config, _, _ = configure_auto("data.npz", ["facets.num_clusters=[4, 3, 2]", "facets.latent_dim=[1, 1, 1]"], None)
    assert config.facets.num_clusters == (4, 3, 2)


def test_images_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n in range(45):
        pixels = rng.integers(256, size=(40 + n, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
    config, dataset, _ = configure_auto(str(tmp_path), [EQUAL], None)
    assert (config.data.size, dataset.event_shape) == (32, (3, 32, 32))
    config, dataset, _ = configure_auto(str(tmp_path), [EQUAL, "data.size=16", "data.fit=stretch"], None)
    assert (config.data.size, config.data.fit, dataset.event_shape) == (16, "stretch", (3, 16, 16))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (None, [], "expected data for the preset auto, got none: name them with --data"),
        ("data.npz", ["facets.number=two"], "expected a whole number as facets.number, got 'two': write --set"),
        ("data.npz", ["data=mnist"], "expected the data once, got them as --data and as --set data.source: leave one"),
    ],
)
def test_mistakes(data: str | None, settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configure_auto(data, settings, None)


def test_a_folder_of_two_dozen_photos_gets_two_clusters_a_facet() -> None:
    assert choose_settings(torch.rand(24, 3, 16, 16), source="x", settings=[EQUAL]).config.facets.num_clusters == (2, 2)


@pytest.mark.parametrize(
    ("setting", "kind"), [("networks.channels=[4]", "conv"), ("networks.hidden_dim=8", "mlp"), ("seed=1", "mlp")]
)
def test_an_option_of_one_kind_of_network_chooses_that_kind(setting: str, kind: str) -> None:
    config = choose_settings(torch.rand(60, 3, 16, 16), source="x", settings=[EQUAL, setting]).config
    assert config.networks.kind == kind


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["likelihood.scale=0.5"], "likelihood: gaussian of scale 0.5, at which the items' variance "),
        (["likelihood=poisson"], "likelihood: poisson, as you asked"),
    ],
)
def test_a_likelihood_that_was_asked_for_is_named(settings: list[str], reason: str) -> None:
    chosen = choose_settings(torch.rand(60, 1, 4, 4), source="x", settings=[EQUAL, *settings])
    assert chosen.reasons[0].startswith(reason)


def test_the_linear_start_and_fits_follow_the_epochs_that_are_given() -> None:
    config = choose_settings(torch.rand(6400, 4), source="x", settings=[EQUAL, "training.epochs=19"]).config
    assert config.stage_epochs == (0, 19)  # 19 epochs of 50 steps are 950 steps, half of 1900
    assert config.mixture_fit.joint_refit_steps == (150, 350, 600)
    assert config.schedule.linear_start_steps == 200
    kept = ["training.epochs=19", "schedule.linear_start_steps=7", "mixture_fit.joint_refit_steps=[5]"]
    config = choose_settings(torch.rand(6400, 4), source="x", settings=[EQUAL, *kept]).config
    assert (config.schedule.linear_start_steps, config.mixture_fit.joint_refit_steps) == (7, (5,))


def test_a_training_may_end_early_unless_its_length_is_given() -> None:
    def tolerance(*settings: str) -> float:
        return choose_settings(torch.rand(60, 4), source="x", settings=[EQUAL, *settings]).config.training.tolerance

    assert tolerance() == 0.25
    assert tolerance("training.epochs=9") == tolerance("training.epochs=[4, 9]") == 0.0
    assert tolerance("training.epochs=9", "training.tolerance=0.5") == 0.5
    reason = choose_settings(torch.rand(60, 4), source="x", settings=[EQUAL]).reasons[4]
    assert reason.endswith(" items, fewer if the ELBO stops rising")


def test_facets_that_join_one_by_one_and_short_trainings_have_no_linear_start() -> None:
    short = choose_settings(torch.rand(6400, 4), source="x", settings=[EQUAL, "training.epochs=1"]).config  # 50 steps
    assert (short.stage_epochs, short.schedule.linear_start_steps) == ((0, 1), 0)
    config = choose_settings(torch.rand(6400, 4), source="x", settings=["training.epochs=[8, 15]"]).config
    assert (config.stage_epochs, config.schedule.linear_start_steps) == ((8, 15), 0)
    build_schedule(config, 50)
