"""The training of `MultiFacetClustering`: the settings of the preset ``auto``, and one training in memory."""

import math
from contextlib import ExitStack
from numbers import Integral
from typing import Any, Protocol

from torch import Tensor

from pyro_mfcvae.config.auto import choose_batch_size, choose_settings
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.trials import prepare
from pyro_mfcvae.train.callbacks import Callback, open_progress_bar
from pyro_mfcvae.train.devices import open_fabric


class Choices(Protocol):
    """The parameters of the estimator that decide the training."""

    num_facets: int | None
    num_clusters: Any
    latent_dim: Any
    num_steps: Any
    batch_size: Any
    learning_rate: Any


def choose_config(choices: Choices, items: Tensor, *, seed: int = 0) -> Config:
    """The settings of the preset ``auto`` for items (N, *event_shape), replaced by the parameters that are not "auto".

    Raises:
        InputError: a parameter does not fit, or there are fewer items than clusters.
    """
    num_facets = _num_facets(choices)
    clusters = _per_facet("num_clusters", choices.num_clusters, num_facets)
    dims = _per_facet("latent_dim", choices.latent_dim, num_facets)
    if clusters and len(items) < max(clusters):
        raise InputError(
            f"expected at least as many items as clusters, got n_samples={len(items)} and "
            f"num_clusters={max(clusters)}: lower num_clusters"
        )
    settings = [f"facets.num_clusters={clusters}"] if clusters else []
    settings += [f"facets.latent_dim={dims}"] if dims else []
    batch_size = choose_batch_size(len(items))
    if not _is_auto("batch_size", choices.batch_size):
        batch_size = _check_whole("batch_size", choices.batch_size)
        settings.append(f"training.batch_size={batch_size}")
    if not _is_auto("learning_rate", choices.learning_rate):
        if not choices.learning_rate > 0:
            raise InputError(f"expected learning_rate > 0, got {choices.learning_rate!r}: choose another")
        rate = float(choices.learning_rate)
        settings += [f"training.learning_rate={rate}", f"training.final_learning_rate={rate / 10}"]
    if not _is_auto("num_steps", choices.num_steps):
        per_epoch = steps_per_epoch(len(items), batch_size)
        epochs = math.ceil(_check_whole("num_steps", choices.num_steps) / per_epoch)
        settings.append(f"training.epochs={epochs}")
    return choose_settings(items, source="array", num_facets=num_facets, settings=settings, seed=seed).config


def train_pair(config: Config, items: Tensor, *, seed: int, device: str, verbose: bool) -> MFCVAE:
    """Train a pair on items (N, *event_shape), as ``mfcvae fit`` does with this seed.

    After training, a pair for vectors computes in double precision, so that the result of an item does not depend on
    the other items.
    """
    training = prepare(config, items, seed=seed, fabric=open_fabric(device))
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


def _is_auto(name: str, value: Any) -> bool:
    if isinstance(value, str) and value != "auto":
        raise InputError(f"expected {name} as a number or 'auto', got {value!r}: choose one")
    return isinstance(value, str)


def _per_facet(name: str, value: Any, num_facets: int) -> list[int] | None:
    """One number per facet; None for "auto"."""
    if isinstance(value, str):
        if value != "auto":
            raise InputError(f"expected {name} as a number, one per facet, or 'auto', got {value!r}: choose one")
        return None
    values = [value] * num_facets if isinstance(value, Integral) else list(value)
    if len(values) != num_facets:
        raise InputError(f"expected {name} of {num_facets} entries, one per facet, got {len(values)}: make them agree")
    return [_check_whole(name, entry) for entry in values]


def _check_whole(name: str, value: Any) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InputError(f"expected {name} as a whole number ≥ 1, got {value!r}: choose another")
    return int(value)
