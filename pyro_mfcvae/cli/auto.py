"""The preset ``auto`` on the command line: which runs take it, and what it says before they start."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_mfcvae.cli.options import expand
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import preset_names
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.errors import InputError

if TYPE_CHECKING:
    from pyro_mfcvae.data.datasets import Dataset

AUTO = "auto"
DESCRIPTION = "Settings that follow from the data: for images or vectors that no other preset was made for"
_NUMBER, _SEED, _CLUSTERS = "facets.number", "seed", "facets.num_clusters"


def takes_auto(preset: str | None, data: str | None) -> bool:
    """Whether a run is configured by ``auto``: by its name, or because the data have no preset of their own."""
    return preset == AUTO or (preset is None and data is not None and data not in preset_names())


def configure_auto(
    data: str | None, settings: Sequence[str], root: Path | None
) -> tuple[Config, "Dataset", tuple[str, ...]]:
    """Read the data and choose settings for them; the last is what is to be said about it.

    ``facets.number=3`` among the settings asks for three facets; so does a list of three numbers of clusters.
    """
    from pyro_mfcvae.config.auto import choose_settings
    from pyro_mfcvae.data.datasets import load_dataset

    if data is None:
        raise InputError("expected data for the preset auto, got none: name them with --data NAME or --data PATH")
    given = {name.strip(): value.strip() for name, _, value in (setting.partition("=") for setting in settings)}
    if not {"data", "data.source"}.isdisjoint(given):
        raise InputError("expected the data once, got them as --data and as --set data.source: leave one out")
    seed = _whole_number(given, _SEED, 0)
    dataset = load_dataset(data, root=root, seed=seed)
    chosen = choose_settings(
        dataset.train.images,
        source=data if data in DATASETS else str(expand(data).resolve()),  # found from other folders as well
        num_facets=_whole_number(given, _NUMBER, given.get(_CLUSTERS, "[2, 2]").count(",") + 1),
        settings=[setting for setting in settings if setting.partition("=")[0].strip() != _NUMBER],
        seed=seed,
    )
    return chosen.config, dataset, chosen.reasons


def _whole_number(given: dict[str, str], name: str, default: int) -> int:
    value = given.get(name, str(default))
    if not value.isdigit():
        raise InputError(f"expected a whole number as {name}, got {value!r}: write --set {name}={default}")
    return int(value)
