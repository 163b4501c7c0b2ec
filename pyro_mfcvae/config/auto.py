"""The preset ``auto``, which chooses settings from the data, for data that have no preset.

The rules below are the same for all data sets; docs/auto.md has their results.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_mfcvae.config.build import build_schedule
from pyro_mfcvae.config.clusterings import suit_clusterings
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.spectrum import NATS, choose_scale, contrast, measure_spectrum
from pyro_mfcvae.config.text import override, parse_config
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.folders import MixedSizesError
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch

_MOST_CLUSTERS, _FEWEST_CLUSTERS = 20, 2
_ITEMS_PER_CLUSTER = 20  # fewer items are not enough to show the shape of a cluster
_FEWEST_ITEMS = 10
_LATENT_DIM = 6

# Images get convolutions if their shorter side has at least this many pixels; smaller ones and vectors get linear
# layers.
_CONVOLUTION_SIDE = 48

# Side to which images are resized if a folder has several sizes: enough for figures and colours, and fast on a CPU.
_SIDE = 32

# Numbers of steps for 1,000 items: of a training with one or two facets, for each further facet, and of the linear
# start. They are proportional to the fourth root of the number of items.
_STEPS, _STEPS_PER_FACET, _LINEAR_START_STEPS = 1900, 500, 400
_STEPS_ITEMS, _STEPS_POWER = 1000, 0.25
_FEWEST_START_STEPS = 20  # with fewer steps the networks do not come near a linear model
# The mixtures are fitted before the first step, and again at these steps.
_REFIT_STEPS = (300, 700, 1200)
# A training ends early if the ELBO rises by at most this number of nats in a twentieth of the steps.
_TOLERANCE = 0.25
_LARGE_BATCH, _SMALL_BATCH = 128, 64
_FEW_ITEMS = 2000  # with fewer items the smaller batch is used, so that an epoch has enough steps

# Penalty in nats for each nat of dependence between facets. With 10, two facets of `nrletters` separated letters; with
# 100, the facet of the faces' poses lost its groups.
_INDEPENDENCE = 30.0

# If facets join one by one, images get a Bernoulli likelihood if their contrast is at least this. It is 0.78 for MNIST,
# 0.61 for shrunken digits side by side, and 0.53 for Fashion-MNIST.
_BERNOULLI_CONTRAST = 0.7

_NUMBER, _SEED, _CLUSTERS = "facets.number", "seed", "facets.num_clusters"
_INDEPENDENCE_NAME = "training.independence"


@dataclass(frozen=True)
class Chosen:
    """Settings that follow from the data, and why.

    Attributes:
        config: the complete configuration.
        reasons: five sentences that explain the settings to the user.
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
        num_facets: number of clusterings to find.
        settings: settings ``section.key=value``, which replace the settings that follow from the data.
        seed: seed of the run.

    Raises:
        InputError: there are too few items, all items are alike, or a setting does not fit.
    """
    num, shape = len(images), tuple(images.shape[1:])
    if num_facets < 1:
        raise InputError(f"expected facets.number of 1 or more, got {num_facets}: choose how many clusterings you want")
    if num < _FEWEST_ITEMS:
        raise InputError(f"expected at least {_FEWEST_ITEMS} items to find clusters in, got {num}: give more")
    spectrum = measure_spectrum(images, standardize=len(shape) == 1)
    scale, variance = choose_scale(spectrum), float(spectrum.sum())
    num_clusters = min(max(num // _ITEMS_PER_CLUSTER, _FEWEST_CLUSTERS), _MOST_CLUSTERS)
    given = [setting.partition("=")[0].strip() for setting in settings]
    convolves = _wants_convolutions(given, shape)
    steps = math.ceil((num / _STEPS_ITEMS) ** _STEPS_POWER * (_STEPS + _STEPS_PER_FACET * max(num_facets - 2, 0)))
    batch_size = choose_batch_size(num)
    epochs = [*[0] * (num_facets - 1), -(-steps // steps_per_epoch(num, batch_size))]
    latent_dim = min(_LATENT_DIM, math.prod(shape))
    table = _table([num_clusters] * num_facets, [latent_dim] * num_facets, epochs, convolves=convolves)
    options = {"scale": scale, "standardize": len(shape) == 1}
    table |= {"data": {"source": source}, "seed": seed, "likelihood": {"kind": "gaussian", "options": options}}
    table["training"]["batch_size"] = batch_size
    config = _add_steps(override(parse_config(table, source="the preset auto"), settings), given, num)
    if num_facets > 1 and config.training.objective == "elbo" and _INDEPENDENCE_NAME not in given:
        config = override(config, [f"{_INDEPENDENCE_NAME}={_INDEPENDENCE}"])
    config, in_stages = suit_clusterings(config, given, images)
    asked = any(name.startswith("likelihood") for name in given)
    if in_stages and not asked and contrast(images) >= _BERNOULLI_CONTRAST:
        config = override(config, ["likelihood.kind=bernoulli"])
    network = "convolutions" if convolves else "linear layers"
    why = f"{' × '.join(map(str, shape))} elements"
    return Chosen(
        replace(config, description=f"Settings chosen by auto for {num} items of {why}"),
        (
            _describe_likelihood(config, variance, asked=asked),
            f"networks: {network}, for items of {why}",
            f"facets: {num_facets}, of {_join(config.facets.latent_dim)} dimensions; facets.number=3 asks for three",
            _describe_clusters(config),
            _describe_schedule(config, num, in_stages=in_stages),
        ),
    )


def choose_batch_size(num_items: int) -> int:
    """The number of items in a step."""
    return _SMALL_BATCH if num_items < _FEW_ITEMS else _LARGE_BATCH


def _describe_likelihood(config: Config, variance: float, *, asked: bool) -> str:
    kind, options = config.likelihood.kind, config.likelihood.options
    if kind != "gaussian":
        return f"likelihood: {kind}, {'as you asked' if asked else 'because the images are nearly black and white'}"
    return (
        f"likelihood: gaussian of scale {options['scale']:g}, at which the items' variance ({variance:.3g} in all"
        f"{', of standardised elements' if options['standardize'] else ''}) is worth "
        f"{min(variance / (2 * options['scale'] ** 2), NATS):.0f} nats, of {NATS:.0f} at most"  # the scale is rounded
    )


def _describe_clusters(config: Config) -> str:
    *others, most = sorted(config.facets.num_clusters)
    offered = f"per facet, at most one per {_ITEMS_PER_CLUSTER} items"
    if others and others[-1] == 1 < most:
        offered = "to one facet, since one clustering describes the items better than several in different directions"
    return f"clusters: {most} offered {offered}; overlapping ones become groups"


def _join(numbers: Sequence[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} and {last}" if others else last


def _describe_schedule(config: Config, num_items: int, *, in_stages: bool) -> str:
    size = min(config.training.batch_size, num_items)
    schedule = build_schedule(config, steps_per_epoch(num_items, size))
    if in_stages:
        return (
            f"schedule: {schedule.num_steps} steps of {size} items; one clustering describes the items better than "
            f"several in different directions, so the deepest facet trains alone for {schedule.stage_steps[0]} steps"
        )
    start = schedule.linear_start_steps
    before = f"{start} steps of a linear start, then " if start else ""
    end = ", fewer if the ELBO stops rising" if config.training.tolerance else ""
    return f"schedule: {before}{schedule.num_steps} steps of {size} items{end}"


def _wants_convolutions(given: Sequence[str], shape: Sequence[int]) -> bool:
    """Whether the ladder has convolutions. If an option of one kind is given, this kind is used; otherwise the size
    of the items decides.
    """
    named = {name.rpartition(".")[2] for name in given if name.startswith("networks.")}
    if len(shape) != 3 or named & {"encoder_dims", "decoder_dims", "hidden_dim", "merge_weight"}:
        return False
    return bool(named & {"channels", "num_residual_blocks", "gated"}) or min(shape[1:]) >= _CONVOLUTION_SIDE


def _add_steps(config: Config, given: Sequence[str], num_items: int) -> Config:
    """The configuration, with a linear start and fits in proportion to the number of steps, unless these are given.

    A single number of epochs is the length of the whole training. There is no linear start if stages are given, because
    a facet that joins later would not keep it, and none in a very short training.
    """
    *earlier, last = config.stage_epochs
    if not isinstance(config.training.epochs, tuple):
        earlier = [0] * len(earlier)
        config = replace(config, training=replace(config.training, epochs=(*earlier, last)))
    share = last * steps_per_epoch(num_items, config.training.batch_size) / _STEPS
    start = math.ceil(share * _LINEAR_START_STEPS)
    steps: dict[str, Any] = {
        "training.tolerance": 0.0 if "training.epochs" in given else _TOLERANCE,
        "schedule.linear_start_steps": 0 if any(earlier) or start < _FEWEST_START_STEPS else start,
        "mixture_fit.joint_refit_steps": sorted({int(share * steps) for steps in _REFIT_STEPS} - {0}),
    }
    return override(config, [f"{name}={value}" for name, value in steps.items() if name not in given])


def configure_auto(
    data: str | None, settings: Sequence[str], root: Path | None
) -> tuple[Config, Dataset, tuple[str, ...]]:
    """Read the data and choose settings for them. The last value has sentences for the user about the settings.

    ``facets.number=3`` among the settings asks for three facets; so does a list of three numbers of clusters. Images of
    several sizes are resized to 32 × 32 pixels, unless ``data.size`` is given.
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
        source=data
        if data in DATASETS
        else str(Path(data).expanduser().resolve()),  # so that later commands find it from other folders
        num_facets=_whole_number(given, _NUMBER, given.get(_CLUSTERS, "[2, 2]").count(",") + 1),
        settings=settings,
        seed=seed,
    )
    return chosen.config, dataset, chosen.reasons


def _table(num_clusters: list[int], latent_dims: list[int], epochs: list[int], *, convolves: bool) -> dict[str, Any]:
    num_facets = len(num_clusters)
    perceptron = {"encoder_dims": [256] * num_facets, "decoder_dims": [256] * num_facets, "hidden_dim": 256}
    networks = {"kind": "conv", "options": {"channels": [16, 32]}}
    if not convolves:
        networks = {"kind": "mlp", "options": {**perceptron, "merge_weight": 1.0}}
    return {
        "facets": {"num_clusters": num_clusters, "latent_dim": latent_dims},
        "prior": {"kind": "gaussian", "options": {"covariance": "full"}},
        "networks": networks,
        "training": {
            "epochs": epochs,
            "learning_rate": 3e-3 if convolves else 2e-3,
            "final_learning_rate": 2e-4,
        },
        "mixture_fit": {"items": 6000},
    }


def _whole_number(given: dict[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not (value.isdecimal() and len(value) < 10):
        raise InputError(f"expected a whole number as {name}, got {value[:50]!r}: write --set {name}={default}")
    return int(value)
