"""The settings of ``auto`` for items that have several clusterings in different directions, or only one.

docs/auto.md has their results.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.spectrum import centred, choose_scale, measure_spectrum
from pyro_mfcvae.config.text import override
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.subspaces import MOST_COMPARED, divide_dims, most_items

_CLUSTERS, _DIMS = "facets.num_clusters", "facets.latent_dim"

# Likelihoods of intensities, for which clusterings are searched for.
_INTENSITIES = ("gaussian", "bernoulli", "continuous_bernoulli")

# The items have one clustering if a single mixture is better than independent ones by this number of standard errors.
# Draws and starts change the difference by about two and a half of them. Any difference is enough if the mixture has at
# most this share of the components that it may have.
_CLEAR_ERRORS, _FEW_COMPONENTS = 5.0, 0.5

# Facets join one by one if there are at least this number of items. With fewer this takes ten times as long as a linear
# start, and the groups are not better.
_FEWEST_STAGED = 3000

# Number of steps for 60,000 items; it is proportional to the fourth root of the number of items.
_STEPS, _STEPS_ITEMS, _STEPS_POWER = 11_700, 60_000, 0.25
_BATCH = 256
_DEEP_SHARE = 0.68  # share of the epochs before the second facet joins
# Factor on the number of clusters, because one facet has all clusters of the items; they still have 20 items each.
_MORE_CLUSTERS, _ITEMS_PER_CLUSTER = 1.25, 20
_LATENT_DIM, _DEEP_LATENT_DIM = 5, 12
_WIDTH, _DEEP_WIDTH = 500, 2000


def suit_clusterings(config: Config, given: Sequence[str], images: Tensor) -> tuple[Config, bool]:
    """The configuration for as many clusterings as the items have in different linear directions; and whether its
    facets join one by one.

    If independent mixtures describe the items at least as well as one mixture, the dimensions are divided among facets
    as the mixtures suggest. Otherwise a linear start of several clusterings would split the one that the items have.
    Then only the deepest facet has clusters, and it gets the most dimensions; or the facets join one by one, if there
    are many items and components, or if the numbers of clusters are given. Without a linear start nothing changes.

    Args:
        config: the configuration with the settings of ``auto`` for several clusterings.
        given: names of the settings that were given and are not changed.
        images: the training items, (N, *event_shape).
    """
    options, dims = config.likelihood.options, config.facets.latent_dim
    most_clusters, num_elements = max(config.facets.num_clusters), images[0].numel()
    linear = config.likelihood.kind in _INTENSITIES and config.schedule.linear_start_steps
    if _DIMS in given or len(dims) < 2 or not linear:
        return config, False
    standardize = options.get("standardize", False)
    division = divide_dims(
        centred(images, most_items(num_elements), standardize=standardize),
        sum(dims),
        len(dims),
        scale=options.get("scale") or choose_scale(measure_spectrum(images, standardize=standardize)),
        most_clusters=most_clusters,
        seed=config.seed,
    )
    dims = division.dims
    long_enough = "training.epochs" not in given or config.stage_epochs[-1] >= 2 * len(dims)
    if division.one_may_be_better and long_enough:
        more = centred(images, most_items(num_elements, most=MOST_COMPARED), standardize=standardize)
        gain = division.gain_of_one(more, most_clusters=most_clusters, seed=config.seed)
        is_clear = gain.nats > _CLEAR_ERRORS * gain.error
        is_simple = gain.nats > 0 and division.joint_size <= _FEW_COMPONENTS * most_clusters
        if (is_simple or (is_clear and len(images) < _FEWEST_STAGED)) and _CLUSTERS not in given:
            # One more than the linear model has, because the encoder may separate more.
            numbers = [*[1] * (len(dims) - 1), min(division.joint_size + 1, most_clusters)]
            config = override(config, [f"{_CLUSTERS}={numbers}"])
            dims = max(division.found, key=lambda each: each[-1])
        elif is_clear:
            return train_in_stages(config, given, len(images)), True
    return override(config, [f"{_DIMS}={list(dims)}"]), False


def train_in_stages(config: Config, given: Sequence[str], num_items: int) -> Config:
    """The configuration, changed so that the facets join one by one, as in the preset mnist.

    The deepest facet has the most dimensions and trains alone for most of the steps. Its mixture is fitted when the
    encoder separates clusters. While the other facets join, its KL counts twice, so that what does not separate
    clusters moves to them.

    Args:
        config: the configuration with the settings of ``auto`` for joint training, with a number of epochs of at least
            twice the number of facets if it was given.
        given: names of the settings that were given and are not changed. A given number of epochs is the length of the
            whole training.
        num_items: number of training items.
    """
    num_facets = len(config.facets.num_clusters)
    others = num_facets - 1
    epochs, batch_size = config.stage_epochs[-1], config.training.batch_size
    if {"training.epochs", "training.batch_size"}.isdisjoint(given):
        batch_size = min(_BATCH, num_items)
    per_epoch = steps_per_epoch(num_items, batch_size)
    if "training.epochs" not in given:
        steps = _STEPS * (num_items / _STEPS_ITEMS) ** _STEPS_POWER
        epochs = max(math.ceil(steps / per_epoch), 2 * num_facets)
    each = (epochs - round(_DEEP_SHARE * epochs)) // others
    alone, joining = (epochs - each * others) * per_epoch, each * per_epoch
    relax = int(0.48 * joining)
    settings: dict[str, Any] = {
        "facets.num_clusters": [
            max(min(round(_MORE_CLUSTERS * num), num_items // _ITEMS_PER_CLUSTER), num)
            for num in config.facets.num_clusters
        ],
        "facets.latent_dim": [_LATENT_DIM] * others + [_DEEP_LATENT_DIM],
        "networks.head_init_scale": 1.0,
        "training.batch_size": batch_size,
        "training.learning_rate": 1e-3,
        "training.final_learning_rate": 5e-5,
        "training.independence": 0.0,
        "training.tolerance": 0.0,
        "schedule.linear_start_steps": 0,
        "schedule.fade_in_steps": max(int(0.13 * joining), 1),
        "schedule.kl_delay_steps": [0] + [int(0.27 * joining)] * others,
        "schedule.kl_weights": [[1] * num_facets] + [[1] * others + [2]] * others,
        "schedule.kl_relax_steps": [relax, max(int(0.64 * joining), relax + 1)],
        "mixture_fit.warmup_steps": [int(0.41 * alone)] + [int(0.32 * joining)] * others,
        "mixture_fit.joint_refit_steps": [],
        "mixture_fit.items": 20_000,
    }
    if config.networks.kind == "mlp":
        widths = [_WIDTH] * others + [_DEEP_WIDTH]
        settings |= {f"networks.{name}": widths for name in ("encoder_dims", "decoder_dims")}
        settings |= {"networks.hidden_dim": _WIDTH, "networks.merge_weight": 0.1}
    kept = {name: value for name, value in settings.items() if name not in given}
    kept["training.epochs"] = [epochs - each * others] + [each] * others
    return override(config, [f"{name}={value}" for name, value in kept.items()])
