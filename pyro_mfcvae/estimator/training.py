"""What `MultiFacetClustering` trains, and how: settings that follow from the items, and one training in memory."""

import math
from contextlib import ExitStack
from numbers import Integral
from typing import Any, Protocol

from torch import Tensor

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.train.callbacks import Callback, open_progress_bar
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.training import Training

_NUM_STEPS = 1500
_MOST_CLUSTERS = 20

# A cluster that is offered should get so many items on average.
_ITEMS_PER_CLUSTER = 10

# Full covariances need some items per element; below, they are diagonal.
_ITEMS_FOR_FULL = 1000

# Convolutions pay for images at least this high and wide.
_CONVOLVED_SIZE = 16


class Choices(Protocol):
    """The parameters of the estimator that decide the training."""

    num_facets: int | None
    num_clusters: Any
    latent_dim: Any
    num_steps: Any
    batch_size: int
    learning_rate: float


def choose_config(choices: Choices, event_shape: tuple[int, ...], num_items: int) -> Config:
    """The configuration for items of a shape, (p,) or (C, H, W).

    Raises:
        InputError: a parameter does not fit, or there are fewer items than clusters.
    """
    num_facets = _num_facets(choices)
    offered = min(_MOST_CLUSTERS, max(2, num_items // _ITEMS_PER_CLUSTER))
    clusters = _per_facet("num_clusters", choices.num_clusters, offered, num_facets)
    if num_items < max(clusters):
        raise InputError(
            f"expected at least as many items as clusters, got n_samples={num_items} and num_clusters={max(clusters)}: "
            "lower num_clusters"
        )
    is_image = len(event_shape) == 3
    dims = _per_facet("latent_dim", choices.latent_dim, 8 if is_image else min(5, event_shape[0]), num_facets)
    _check_whole("batch_size", choices.batch_size)
    num_steps = _NUM_STEPS if choices.num_steps == "auto" else _check_whole("num_steps", choices.num_steps)
    if not choices.learning_rate > 0:
        raise InputError(f"expected learning_rate > 0, got {choices.learning_rate!r}: choose another")
    per_epoch = steps_per_epoch(num_items, choices.batch_size)
    epochs = max(math.ceil(num_steps / num_facets / per_epoch), 1)
    stage = epochs * per_epoch
    covariance = "full" if num_items >= _ITEMS_FOR_FULL else "diagonal"
    settings = [
        f"facets.num_clusters={clusters}",
        f"facets.latent_dim={dims}",
        f'prior.covariance="{covariance}"',
        "likelihood.kind=gaussian",
        f"likelihood.scale={0.3 if is_image else 0.5}",
        f"training.epochs={epochs}",
        f"training.batch_size={choices.batch_size}",
        f"training.learning_rate={float(choices.learning_rate)}",
        f"training.final_learning_rate={choices.learning_rate / 10}",
        "training.compile=false",
        f"schedule.fade_in_steps={max(stage // 5, 1)}",
        f"mixture_fit.warmup_steps={stage // 3}",
        f"mixture_fit.refit_steps={sorted({max(stage * n // 6, stage // 3 + 1) for n in (3, 4, 5)})}",
        *_network_settings(event_shape, num_facets),
    ]
    return override(Config(data=DataConfig(source="array")), settings)


def train_pair(config: Config, items: Tensor, *, seed: int, device: str, verbose: bool) -> MFCVAE:
    """A pair trained on items (N, *event_shape), on its device.

    Afterwards a pair of vectors computes in double precision: an item's result then does not depend on its neighbours.
    """
    training = Training(
        build_pair(config, tuple(items.shape[1:])),
        items,
        schedule=build_schedule(config, steps_per_epoch(len(items), config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=seed,
        fabric=open_fabric(device),
    )
    with ExitStack() as stack:
        bar: Callback | None = None
        if verbose:
            bar = stack.enter_context(open_progress_bar())
            bar.on_start(training)
        while not training.is_finished:
            record = training.run_epoch(bar.on_steps if bar else None)
            if bar:
                bar.on_epoch(record)
    pair = training.pair.eval()
    return pair.double() if items.ndim == 2 else pair


def _num_facets(choices: Choices) -> int:
    for values in (choices.num_clusters, choices.latent_dim):
        if not isinstance(values, str | Integral):
            if choices.num_facets not in (None, len(values)):
                raise InputError(
                    f"expected one entry per facet, got num_facets={choices.num_facets} and {len(values)} entries: "
                    "make them agree, or leave num_facets out"
                )
            return _check_whole("num_facets", len(values))
    return 2 if choices.num_facets is None else _check_whole("num_facets", choices.num_facets)


def _per_facet(name: str, value: Any, automatic: int, num_facets: int) -> list[int]:
    if isinstance(value, str):
        if value != "auto":
            raise InputError(f"expected {name} as a number, one per facet, or 'auto', got {value!r}: choose one")
        return [automatic] * num_facets
    values = [value] * num_facets if isinstance(value, Integral) else list(value)
    if len(values) != num_facets:
        raise InputError(f"expected {name} of {num_facets} entries, one per facet, got {len(values)}: make them agree")
    return [_check_whole(name, entry) for entry in values]


def _check_whole(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"expected {name} as a whole number ≥ 1, got {value!r}: choose another")
    return int(value)


def _network_settings(event_shape: tuple[int, ...], num_facets: int) -> list[str]:
    if len(event_shape) == 3 and min(event_shape[1:]) >= _CONVOLVED_SIZE:
        return ["networks.kind=conv", f"networks.channels={[16 * 2**j for j in range(max(num_facets, 2))]}"]
    width = 64 if math.prod(event_shape) <= 256 else 256
    return [
        "networks.kind=mlp",
        f"networks.encoder_dims={[width] * num_facets}",
        f"networks.decoder_dims={[width] * num_facets}",
        f"networks.hidden_dim={width}",
        "networks.merge_weight=1.0",
    ]
