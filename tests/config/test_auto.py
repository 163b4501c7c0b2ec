"""The preset auto: what it reads from the data, what it refuses, and that settings take its place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_mfcvae import InputError
from pyro_mfcvae.config.auto import choose_settings, configure_auto
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import takes_auto


def test_the_scale_follows_from_the_spectrum_for_bytes_and_floats_alike() -> None:
    images = torch.zeros(3000, 1, 10, 10)
    images[::2] = 1.0  # one direction, of standard deviation 5
    config = choose_settings(images, source="x").config
    assert config.likelihood.kind == "gaussian"
    assert config.likelihood.options["scale"] == pytest.approx(5 / 4, rel=5e-3)
    assert not config.likelihood.options["standardize"]
    bytes_config = choose_settings((255 * images).to(torch.uint8), source="x").config
    assert bytes_config.likelihood == config.likelihood


def test_vectors_are_standardised() -> None:
    x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    options = choose_settings(x, source="x").config.likelihood.options
    assert options["standardize"]
    assert choose_settings(1000 * x - 5, source="x").config.likelihood.options == options


def test_small_images_and_vectors_get_linear_layers_and_larger_images_convolutions() -> None:
    kinds = {
        shape: choose_settings(torch.rand(60, *shape), source="x").config.networks.kind
        for shape in ((30,), (1, 20, 20), (3, 32, 24), (1, 60, 20))
    }
    assert kinds == {(30,): "mlp", (1, 20, 20): "mlp", (3, 32, 24): "conv", (1, 60, 20): "mlp"}


@pytest.mark.parametrize(
    ("num", "clusters", "batch", "least"),
    [(100, 5, 64, (400, 250, 750)), (400, 20, 64, (800, 500, 1500)), (5000, 20, 128, (800, 500, 1500))],
)
def test_the_number_of_items_decides_clusters_batches_and_epochs(
    num: int, clusters: int, batch: int, least: tuple[int, ...]
) -> None:
    config = choose_settings(torch.rand(num, 4), source="x", num_facets=3).config
    assert config.facets.num_clusters == (clusters,) * 3
    assert config.training.batch_size == batch
    per_epoch = max(num // batch, 1)
    steps = [epochs * per_epoch for epochs in config.stage_epochs]
    assert all(0 <= num - wanted < per_epoch for num, wanted in zip(steps, least, strict=True))
    schedule = build_schedule(config, per_epoch)
    assert schedule.repartition_step == steps[-1] * 400 // 1500
    assert schedule.fit_steps()[0] == sum(steps[:2]) + schedule.repartition_step


def test_mixtures_wait_for_the_axes_where_few_directions_hold_the_variance() -> None:
    rng = torch.Generator().manual_seed(0)
    few, many = torch.randn(400, 4, generator=rng), torch.randn(400, 300, generator=rng)
    assert choose_settings(few, source="x").config.mixture_fit.warmup_steps == "repartition"
    assert choose_settings(many, source="x").config.mixture_fit.warmup_steps == (500, 200)


def test_many_items_get_more_steps() -> None:
    config = choose_settings(torch.rand(80_000, 4), source="x").config  # 625 steps an epoch
    assert config.stage_epochs == (3, 5)  # 1600 and 3000 steps, rounded up


def test_settings_take_the_place_of_what_follows_from_the_data() -> None:
    chosen = choose_settings(
        torch.rand(60, 4), source="x", settings=["likelihood.scale=0.5", "networks.posterior=full"], seed=3
    )
    assert chosen.config.likelihood.options["scale"] == 0.5
    assert chosen.config.schedule.repartition_step is None  # full covariances cannot be rotated
    assert (chosen.config.seed, len(chosen.reasons)) == (3, 5)
    assert build_pair(chosen.config, (4,)).num_facets == 2


def test_one_facet_has_nothing_to_share_out() -> None:
    config = choose_settings(torch.rand(400, 4), source="x", num_facets=1).config
    assert (config.schedule.repartition_step, len(config.stage_epochs)) == (None, 1)
    assert build_schedule(config, 6).fit_steps() == (500, 650, 900, 1200)


@pytest.mark.parametrize(
    ("images", "num_facets", "message"),
    [
        (torch.rand(9, 4), 2, "expected at least 10 items to find clusters in, got 9: give more"),
        (torch.ones(50, 4), 2, "expected items that differ, got items that are all alike: check the data"),
        (torch.rand(50, 4), 0, "expected facets.number of 1 or more, got 0: choose how many clusterings you want"),
    ],
)
def test_what_auto_refuses(images: torch.Tensor, num_facets: int, message: str) -> None:
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
    config, dataset, _ = configure_auto(str(tmp_path), [], None)
    assert (config.data.size, dataset.event_shape) == (32, (3, 32, 32))
    config, dataset, _ = configure_auto(str(tmp_path), ["data.size=16", "data.fit=stretch"], None)
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
    assert choose_settings(torch.rand(24, 3, 16, 16), source="x").config.facets.num_clusters == (2, 2)


@pytest.mark.parametrize(
    ("setting", "kind"), [("networks.channels=[4]", "conv"), ("networks.hidden_dim=8", "mlp"), ("seed=1", "mlp")]
)
def test_an_option_of_one_kind_of_network_chooses_that_kind(setting: str, kind: str) -> None:
    config = choose_settings(torch.rand(60, 3, 16, 16), source="x", settings=[setting]).config
    assert config.networks.kind == kind


def test_fits_and_fades_follow_the_epochs_that_are_given() -> None:
    config = choose_settings(torch.rand(6400, 4), source="x", settings=["training.epochs=[8, 15]"]).config
    assert config.stage_epochs == (8, 15)  # of 50 steps: 400, and 750 where auto takes 1500
    assert config.mixture_fit.joint_refit_steps == (325, 450, 600)
    assert (config.schedule.repartition_step, config.schedule.fade_in_steps) == (200, 100)
    build_schedule(config, 50)
    kept = ["training.epochs=[8, 15]", "schedule.repartition_step=20", "schedule.fade_in_steps=7"]
    config = choose_settings(torch.rand(6400, 4), source="x", settings=kept).config
    assert (config.schedule.repartition_step, config.schedule.fade_in_steps) == (20, 7)
    config = choose_settings(torch.rand(24, 4), source="x", settings=["training.epochs=1"]).config
    assert config.schedule.repartition_step is None  # a last stage of one step has no room for it
    build_schedule(config, 1)
