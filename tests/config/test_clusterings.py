"""The settings of auto for items with several clusterings, or only one."""

import os

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mfcvae.config import clusterings
from pyro_mfcvae.config.auto import choose_settings
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.clusterings import train_in_stages
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.subspaces.dims import Division, Gain
from pyro_mfcvae.subspaces.search import BestRotation


def joint(num_items: int, *settings: str, num_facets: int = 2) -> Config:
    """The settings for joint training of random items; a list of dimensions avoids the search for them."""
    dims = f"facets.latent_dim={[1] * num_facets}"
    x = torch.rand(num_items, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return choose_settings(x, source="x", num_facets=num_facets, settings=[dims, *settings]).config


def blobs(num_items: int, *num_clusters: int) -> Tensor:
    """Vectors with independent clusterings of separate clusters, each in three dimensions of its own."""
    random = torch.Generator().manual_seed(0)
    parts = []
    for num in num_clusters:
        centres = 6 * torch.eye(3)[:num]
        chosen = torch.randint(num, (num_items,), generator=random)
        parts.append(centres[chosen] + torch.randn(num_items, 3, generator=random))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_clusters_of_a_single_clustering_go_to_one_facet(seed: int) -> None:
    """With few items and with many."""
    for num_items in (150, 600):
        chosen = choose_settings(blobs(num_items, 3), source="x", seed=seed)
        assert chosen.config.facets.num_clusters == (1, 4)
        assert chosen.config.schedule.linear_start_steps > 0
        assert chosen.reasons[3].startswith("clusters: 4 offered to one facet, since one clustering describes")
    several = choose_settings(blobs(600, 3, 3), source="x", seed=seed)
    assert several.config.facets.num_clusters == (20, 20)
    assert several.reasons[3].startswith("clusters: 20 offered per facet, at most one per 20 items")


@pytest.mark.parametrize(
    ("num_items", "gain", "joint_size", "clusters", "stages"),
    [
        (2999, Gain(0.6, 0.1), 19, (1, 20), False),
        (2999, Gain(0.4, 0.1), 19, (20, 20), False),
        (2999, Gain(0.01, 0.1), 10, (1, 11), False),
        (2999, Gain(-0.01, 0.1), 3, (20, 20), False),
        (3000, Gain(0.6, 0.1), 20, (25, 25), True),
        (3000, Gain(0.4, 0.1), 20, (20, 20), False),
        (3000, Gain(0.6, 0.1), 5, (1, 6), False),
    ],
)
def test_the_gain_of_one_mixture_and_its_size_decide(
    monkeypatch: pytest.MonkeyPatch,
    num_items: int,
    gain: Gain,
    joint_size: int,
    clusters: tuple[int, ...],
    *,
    stages: bool,
) -> None:
    found = {dims: BestRotation(np.eye(12), -2.0) for dims in ((6, 6), (3, 9))}
    division = Division((6, 6), found, -1.0, joint_size)
    monkeypatch.setattr(Division, "gain_of_one", lambda *_, **__: gain)
    monkeypatch.setattr(clusterings, "divide_dims", lambda *_, **__: division)
    config = choose_settings(blobs(num_items, 3), source="x").config
    assert config.facets.num_clusters == clusters
    assert (config.stage_epochs[0] > 0) == stages
    given = choose_settings(blobs(num_items, 3), source="x", settings=["facets.num_clusters=[3, 4]"]).config
    assert given.facets.num_clusters == (3, 4)
    assert (given.stage_epochs[0] > 0) == (gain.nats > 5 * gain.error)
    several = clusters[0] == clusters[1]
    assert config.facets.latent_dim == ((5, 12) if stages else (6, 6) if several else (3, 9))


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist"])
def test_for_60_000_items_they_are_nearly_those_of_a_preset(data: str) -> None:
    config, preset = train_in_stages(joint(600), [], 60_000), load_preset(data)
    assert config.prior == preset.prior
    assert config.facets == preset.facets
    assert config.networks == preset.networks
    for name in ("epochs", "batch_size", "learning_rate", "final_learning_rate", "independence"):
        assert getattr(config.training, name) == getattr(preset.training, name)
    schedule, expected = build_schedule(config, 234), build_schedule(preset, 234)
    assert schedule.stage_steps == expected.stage_steps == (34 * 234, 16 * 234)
    assert schedule.kl_weights == expected.kl_weights
    for name in ("fade_in_steps", "kl_delay_steps", "kl_relax_steps", "warmup_steps"):
        assert getattr(schedule, name) == pytest.approx(getattr(expected, name), rel=0.03)
    assert schedule.linear_start_steps == 0


@pytest.mark.parametrize(("num_items", "num_facets", "stages"), [(1000, 3, (954, 224, 224)), (30, 2, (1190, 560))])
def test_steps_follow_the_number_of_items(num_items: int, num_facets: int, stages: tuple[int, ...]) -> None:
    """11,700 (N / 60,000)^(1/4) steps in whole epochs."""
    config = train_in_stages(joint(num_items, num_facets=num_facets), [], num_items)
    assert config.facets.latent_dim == (*[5] * (num_facets - 1), 12)
    batch_size = config.training.batch_size
    per_epoch = num_items // batch_size
    schedule = build_schedule(config, per_epoch)
    steps = 11_700 * (num_items / 60_000) ** 0.25
    assert 0 <= schedule.num_steps - steps < per_epoch
    assert config.stage_epochs == stages
    assert len(schedule.fit_steps()) == num_facets
    assert build_pair(config, (1, 4, 4)).num_facets == num_facets


@pytest.mark.parametrize(("num_items", "clusters"), [(100, 5), (400, 20), (480, 24), (500, 25)])
def test_every_cluster_has_twenty_items(num_items: int, clusters: int) -> None:
    assert train_in_stages(joint(num_items), [], num_items).facets.num_clusters == (clusters, clusters)


def test_given_epochs_are_the_length_of_the_training_and_other_given_settings_stay() -> None:
    given = ["training.epochs=10", "networks.hidden_dim=20", "facets.num_clusters=[3, 4]", "schedule.fade_in_steps=2"]
    names = [setting.partition("=")[0] for setting in given]
    config = train_in_stages(joint(2560, *given), names, 2560)
    assert (config.stage_epochs, config.training.batch_size) == ((7, 3), 128)
    assert config.networks.options["hidden_dim"] == 20
    assert config.networks.options["encoder_dims"] == (500, 2000)
    assert (config.facets.num_clusters, config.schedule.fade_in_steps) == ((3, 4), 2)
    build_schedule(config, 20)


def test_the_shortest_training_has_a_valid_schedule() -> None:
    config = train_in_stages(joint(10, "training.epochs=4"), ["training.epochs"], 10)
    schedule = build_schedule(config, 1)
    assert schedule.stage_steps == (3, 1)
    assert schedule.kl_relax_steps == (0, 1)


def test_convolutions_keep_their_options() -> None:
    config = train_in_stages(joint(600, "networks.channels=[4]"), ["networks.channels"], 600)
    assert (config.networks.kind, config.networks.options["channels"]) == ("conv", (4,))
    assert config.networks.options["head_init_scale"] == 1.0


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MFCVAE_DATA"), reason="MFCVAE_DATA does not name the folder of MNIST")
@pytest.mark.parametrize(("name", "seed"), [("mnist", 2), ("mnist", 3), ("fashion_mnist", 0)])
def test_auto_chooses_the_settings_of_the_presets_of_mnist(name: str, seed: int) -> None:
    """On 3,000 digits the gain of one clustering is small with these seeds; the comparison on 10,000 is clear."""
    config = choose_settings(load_dataset(name).train.images, source=name, seed=seed).config
    assert config.facets.latent_dim == (5, 12)
    assert config.likelihood == load_preset(name).likelihood


@pytest.mark.slow
def test_auto_lets_facets_join_one_by_one_if_the_items_have_one_clustering() -> None:
    """Twelve clusters in all directions at once; with too few epochs there is a linear start all the same."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(12, 12, generator=generator)
    x = centres[torch.randint(12, (3000,), generator=generator)] + torch.randn(3000, 12, generator=generator)
    settings = ["likelihood.scale=1.0", "likelihood.standardize=false"]
    chosen = choose_settings(x, source="x", settings=settings)
    assert chosen.config.facets.latent_dim == (5, 12)
    assert chosen.config.schedule.linear_start_steps == 0
    assert chosen.reasons[-1] == (
        "schedule: 5533 steps of 256 items; one clustering describes the items better than several in different "
        "directions, so the deepest facet trains alone for 3762 steps"
    )
    short = choose_settings(x, source="x", settings=[*settings, "training.epochs=3"])
    assert short.config.facets.latent_dim in ((6, 6), (3, 9))
    given = choose_settings(x, source="x", settings=[*settings, "training.epochs=[3, 3]"])
    assert given.config.stage_epochs == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("grey", "kind"), [(1.0, "bernoulli"), (0.4, "gaussian")])
def test_black_and_white_images_with_one_clustering_get_a_bernoulli_likelihood(grey: float, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    drawings = torch.rand(16, 1, 8, 8, generator=generator) < 0.5
    flips = torch.rand(3000, 1, 8, 8, generator=generator) < 0.05
    x = grey * (drawings[torch.randint(16, (3000,), generator=generator)] ^ flips).float()
    chosen = choose_settings(x, source="x")
    assert (chosen.config.facets.latent_dim, chosen.config.likelihood.kind) == ((5, 12), kind)
    assert chosen.reasons[0].startswith(f"likelihood: {kind}")
    for asked in ("gaussian", "continuous_bernoulli"):
        config = choose_settings(x, source="x", settings=[f"likelihood={asked}"]).config
        assert (config.facets.latent_dim, config.likelihood.kind) == ((5, 12), asked)
