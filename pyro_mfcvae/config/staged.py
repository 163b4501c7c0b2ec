"""The settings of ``auto`` for items with one clustering: the facets join one by one.

They are those of the preset mnist, in proportion to the number of steps; docs/auto.md has their results.
"""

import math
from collections.abc import Sequence
from typing import Any

from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import override
from pyro_mfcvae.infer.schedule import steps_per_epoch

# Number of steps for 60,000 items; it is proportional to the fourth root of the number of items.
_STEPS, _STEPS_ITEMS, _STEPS_POWER = 11_700, 60_000, 0.25
_BATCH = 256
_DEEP_SHARE = 0.68  # share of the epochs before the second facet joins
# Factor on the number of clusters, because one facet has all clusters of the items; they still have 20 items each.
_MORE_CLUSTERS, _ITEMS_PER_CLUSTER = 1.25, 20
_LATENT_DIM, _DEEP_LATENT_DIM = 5, 12
_WIDTH, _DEEP_WIDTH = 500, 2000


def train_in_stages(config: Config, given: Sequence[str], num_items: int) -> Config:
    """The configuration, changed so that the facets join one by one.

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
