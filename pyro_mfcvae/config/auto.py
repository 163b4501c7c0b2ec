"""The preset ``auto``: settings that follow from the data, for data that no preset was made for.

The rules below are the same for all data sets; docs/auto.md says what they reach.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override, parse_config
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.folders import MixedSizesError
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch

# How many nats the variance of an item is worth: sum_i var_i / (2 scale²). It decides the likelihood's scale.
_NATS = 400.0

# Items that the variance is measured on.
_NUM_MEASURED = 2000

_MOST_CLUSTERS, _FEWEST_CLUSTERS = 20, 2
_ITEMS_PER_CLUSTER = 20  # fewer items do not show the shape of a cluster
_FEWEST_ITEMS = 4
_LATENT_DIM = 6

# Images whose shorter side has at least so many pixels get convolutions, smaller ones and vectors linear layers.
_CONVOLUTION_SIDE = 24

# Side of images in a folder that holds several sizes: enough for figures and colours, and quick on a CPU.
_SIDE = 32

# Steps of the first stage, of every stage between, and of the last one, which holds the repartition.
_FIRST_STEPS, _MIDDLE_STEPS, _LAST_STEPS = 800, 500, 1500
_FIRST_WARMUP_STEPS, _WARMUP_STEPS, _REPARTITION_STEP = 500, 200, 400
_JOINT_REFIT_STEPS = (650, 900, 1200)
_LARGE_BATCH, _SMALL_BATCH = 128, 64
_FEW_ITEMS = 2000  # with fewer, the smaller batch gives an epoch enough steps


_NUMBER, _SEED, _CLUSTERS = "facets.number", "seed", "facets.num_clusters"


@dataclass(frozen=True)
class Chosen:
    """Settings that follow from the data, and why.

    Attributes:
        config: complete.
        reasons: five sentences for people.
    """

    config: Config
    reasons: tuple[str, ...]


def choose_settings(
    images: Tensor,
    *,
    source: str,
    num_facets: int = 2,
    settings: Sequence[str] = (),
    seed: int = 0,
) -> Chosen:
    """The configuration of the preset ``auto``.

    Args:
        images: the training items, (N, *event_shape), uint8 or floats.
        source: name or path of the data, as the configuration records it.
        num_facets: how many clusterings to look for.
        settings: ``section.key=value`` that take the place of what follows from the data.
        seed: of the run.

    Raises:
        InputError: there are too few items, they are all alike, or a setting does not fit.
    """
    num, shape = len(images), tuple(images.shape[1:])
    if num_facets < 1:
        raise InputError(f"expected facets.number of 1 or more, got {num_facets}: choose how many clusterings you want")
    if num < _FEWEST_ITEMS:
        raise InputError(f"expected at least {_FEWEST_ITEMS} items to find clusters in, got {num}: give more")
    variance = _total_variance(images)
    scale = float(f"{math.sqrt(variance / (2 * _NATS)):.3g}")
    num_clusters = min(max(num // _ITEMS_PER_CLUSTER, _FEWEST_CLUSTERS), _MOST_CLUSTERS)
    given = [setting.partition("=")[0].strip() for setting in settings]
    convolves = _wants_convolutions(given, shape)
    stages = [_FIRST_STEPS, *[_MIDDLE_STEPS] * (num_facets - 2), _LAST_STEPS][-num_facets:]
    batch_size = _SMALL_BATCH if num < _FEW_ITEMS else _LARGE_BATCH
    epochs = [-(-steps // steps_per_epoch(num, batch_size)) for steps in stages]
    table = _table([num_clusters] * num_facets, epochs, convolves=convolves)
    table |= {"data": {"source": source}, "seed": seed, "likelihood": {"kind": "gaussian", "options": {"scale": scale}}}
    table["training"]["batch_size"] = batch_size
    config = override(parse_config(table, source="the preset auto"), settings)
    if "training.epochs" in given:
        config = _fit_into_epochs(config, given, stages, num)
    if config.networks.options.get("posterior", "diagonal") != "diagonal":  # only these can be rotated
        config = replace(config, schedule=replace(config.schedule, repartition_step=None))
    network = "convolutions" if convolves else "linear layers"
    why = f"{' × '.join(map(str, shape))} elements"
    return Chosen(
        replace(config, description=f"Settings chosen by auto for {num} items of {why}"),
        (
            f"likelihood: gaussian of scale {scale:g}, so that the items' variance ({variance:.3g} in all) is worth "
            f"{_NATS:.0f} nats",
            f"networks: {network}, for items of {why}",
            f"facets: {num_facets} of {_LATENT_DIM} dimensions; facets.number=3 asks for three",
            f"clusters: {num_clusters} offered per facet, at most one per {_ITEMS_PER_CLUSTER} items; overlapping ones "
            "become groups",
            f"schedule: {sum(stages)} steps of {batch_size} items; the axes are shared out among the facets "
            f"{_REPARTITION_STEP} steps after the last one has joined",
        ),
    )


def _wants_convolutions(given: Sequence[str], shape: Sequence[int]) -> bool:
    """Whether the ladder is of convolutions: where an option of one kind is given, of that kind; else by the size."""
    named = {name.rpartition(".")[2] for name in given if name.startswith("networks.")}
    if len(shape) != 3 or named & {"encoder_dims", "decoder_dims", "hidden_dim", "merge_weight"}:
        return False
    return bool(named & {"channels", "num_residual_blocks", "gated"}) or min(shape[1:]) >= _CONVOLUTION_SIDE


def _fit_into_epochs(config: Config, given: Sequence[str], stages: Sequence[int], num_items: int) -> Config:
    """The steps of fits and fades in proportion to stages whose epochs are given, unless they are given as well."""
    per_epoch = steps_per_epoch(num_items, config.training.batch_size)
    shares = [epochs * per_epoch / steps for epochs, steps in zip(config.stage_epochs, stages, strict=True)]
    fit, schedule = config.mixture_fit, config.schedule
    if "mixture_fit.warmup_steps" not in given and isinstance(fit.warmup_steps, tuple):
        warmups = tuple(int(steps * share) for steps, share in zip(fit.warmup_steps, shares, strict=True))
        fit = replace(fit, warmup_steps=warmups)
    last_warmup = fit.warmup_steps[-1] if isinstance(fit.warmup_steps, tuple) else fit.warmup_steps
    if "mixture_fit.joint_refit_steps" not in given:
        refits = sorted({int(steps * shares[-1]) for steps in fit.joint_refit_steps})
        fit = replace(fit, joint_refit_steps=tuple(steps for steps in refits if steps > last_warmup))
    if "schedule.repartition_step" not in given and schedule.repartition_step is not None:
        step = max(int(schedule.repartition_step * shares[-1]), last_warmup + 1)
        schedule = replace(schedule, repartition_step=step)
    if "schedule.fade_in_steps" not in given:
        schedule = replace(schedule, fade_in_steps=max(int(schedule.fade_in_steps * min(shares)), 1))
    return replace(config, mixture_fit=fit, schedule=schedule)


def configure_auto(
    data: str | None, settings: Sequence[str], root: Path | None
) -> tuple[Config, Dataset, tuple[str, ...]]:
    """Read the data and choose settings for them; the last is what is to be said about it.

    ``facets.number=3`` among the settings asks for three facets; so does a list of three numbers of clusters. Images of
    several sizes are brought to 32 × 32 pixels, unless ``data.size`` says otherwise.
    """
    if data is None:
        raise InputError("expected data for the preset auto, got none: name them with --data NAME or --data PATH")
    given = {name.strip(): value.strip() for name, _, value in (setting.partition("=") for setting in settings)}
    if not {"data", "data.source"}.isdisjoint(given):
        raise InputError("expected the data once, got them as --data and as --set data.source: leave one out")
    seed = _whole_number(given, _SEED, 0)
    settings = [setting for setting in settings if setting.partition("=")[0].strip() != _NUMBER]
    images = override(Config(data=DataConfig(source=data)), [s for s in settings if s.strip().startswith("data.")]).data
    try:
        dataset = load_dataset(data, root=root, seed=seed, size=images.size, fit=images.fit)
    except MixedSizesError:
        settings.append(f"data.size={_SIDE}")
        dataset = load_dataset(data, root=root, seed=seed, size=_SIDE, fit=images.fit)
    chosen = choose_settings(
        dataset.train.images,
        source=data if data in DATASETS else str(Path(data).expanduser().resolve()),  # found from other folders as well
        num_facets=_whole_number(given, _NUMBER, given.get(_CLUSTERS, "[2, 2]").count(",") + 1),
        settings=settings,
        seed=seed,
    )
    return chosen.config, dataset, chosen.reasons


def _total_variance(images: Tensor) -> float:
    """Sum over the elements of their variance; bytes count as shares of 255, missing elements are left out."""
    order = np.random.default_rng(0).permutation(len(images))[:_NUM_MEASURED]
    values = images[np.sort(order)].flatten(1)
    x = values.double().numpy() / (1 if values.is_floating_point() else 255)
    variance = float(np.nansum(np.nanvar(x, axis=0)))
    if not variance > 0:
        raise InputError("expected items that differ, got items that are all alike: check the data")
    return variance


def _table(num_clusters: list[int], epochs: list[int], *, convolves: bool) -> dict[str, Any]:
    num_facets = len(num_clusters)
    perceptron = {"encoder_dims": [256] * num_facets, "decoder_dims": [256] * num_facets, "hidden_dim": 256}
    networks = {"kind": "conv", "options": {"channels": [16, 32]}}
    if not convolves:
        networks = {"kind": "mlp", "options": {**perceptron, "merge_weight": 1.0}}
    return {
        "facets": {"num_clusters": num_clusters, "latent_dim": [_LATENT_DIM] * num_facets},
        "prior": {"kind": "gaussian", "options": {"covariance": "full"}},
        "networks": networks,
        "training": {
            "epochs": epochs,
            "learning_rate": 3e-3 if convolves else 2e-3,
            "final_learning_rate": 2e-4,
        },
        "schedule": {"fade_in_steps": 200} | ({"repartition_step": _REPARTITION_STEP} if num_facets > 1 else {}),
        "mixture_fit": {
            "warmup_steps": [_FIRST_WARMUP_STEPS, *[_WARMUP_STEPS] * (num_facets - 1)],
            "joint_refit_steps": list(_JOINT_REFIT_STEPS),
            "items": 6000,
        },
    }


def _whole_number(given: dict[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not value.isdigit():
        raise InputError(f"expected a whole number as {name}, got {value!r}: write --set {name}={default}")
    return int(value)
