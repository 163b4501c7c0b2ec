"""The configuration and the data set of a fit from Python, for data and settings in any form."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from pyro_mfcvae.api.inputs import is_image_array, to_array, to_labels, to_tensor
from pyro_mfcvae.config.auto import choose_settings, configure_auto
from pyro_mfcvae.config.build import adapt_epochs
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import load_preset, override, takes_auto
from pyro_mfcvae.data.catalogue import DATASETS, DatasetInfo
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.images import Split, as_size, resize_all, validate_images
from pyro_mfcvae.data.labels import read_labels
from pyro_mfcvae.errors import InputError

ARRAY = "array"
"""Name that the configuration gives to data in an array."""


def choose(
    data: Any, *, preset: str | None, changes: dict[str, Any], labels: Mapping[str, Any] | None
) -> tuple[Config, Dataset]:
    """The configuration and the data of a fit.

    Args:
        data: a name, a path, an array or tensor of images, a PyTorch data set or loader.
        preset: name of a preset. If None, the preset with the name of the data, or ``auto`` if no preset has it.
        changes: settings that replace those of the preset.
        labels: name → label of each item, for data in an array.
    """
    named = isinstance(data, str | Path)
    name = str(data) if named else ARRAY
    source = name if not named or name in DATASETS else str(Path(data).expanduser().resolve())
    if takes_auto(preset, name) and named:
        config, dataset, _ = configure_auto(name, [_as_toml(*change) for change in changes.items()], None)
    elif takes_auto(preset, name):
        number = changes.pop("facets.number", len(changes.get("facets.num_clusters", (None, None))))
        texts, seed = [_as_toml(*change) for change in changes.items()], int(changes.get("seed", 0))
        images = override(Config(data=DataConfig(source=source)), [s for s in texts if s.startswith("data.")]).data
        dataset = as_dataset(data, labels=labels, form=images)
        chosen = choose_settings(dataset.train.images, source=source, num_facets=number, settings=texts, seed=seed)
        config = chosen.config
    else:
        config = load_preset(preset or name)
        made_for = DATASETS[config.data.source].num_items if config.data.source in DATASETS else None
        config = replace(config, data=replace(config.data, source=source))
        config = override(config, [_as_toml(*change) for change in changes.items()])
        dataset = as_dataset(data, labels=labels, seed=config.seed, form=config.data)
        if made_for and len(dataset.train) != made_for and "training.epochs" not in changes:
            config = adapt_epochs(config, made_for=made_for, num_items=len(dataset.train))
    return config, dataset


def as_dataset(
    data: Any, *, form: DataConfig, labels: Mapping[str, Any] | None = None, root: Path | None = None, seed: int = 0
) -> Dataset:
    """A data set from any data that `fit` accepts. All items of an array are used for training and for scores."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        return load_dataset(str(data), root=root, seed=seed, size=form.size, fit=form.fit)
    array = np.asarray(to_array(data))
    items = validate_images(array) if is_image_array(array) else to_tensor(array)
    if form.size is not None and items.ndim == 4:
        items = resize_all(items, as_size(form.size), form.fit, source=ARRAY)
    arrays = {name: to_labels(values) for name, values in (labels or {}).items()}
    found = read_labels(arrays, len(items), path=Path(ARRAY))
    if found.notes:
        raise InputError(f"expected labels that can be read, but {found.notes[0]}: convert them to one number per item")
    split = Split(items, found.sets)
    info = DatasetInfo(
        name=ARRAY,
        description="an array in memory",
        event_shape=tuple(items.shape[1:]),
        likelihood=None,
        label_names=tuple(found.sets),
        split="all items serve for training and scoring",
        num_items=len(items),
        read=lambda root, seed: (split, split),
    )
    return Dataset(ARRAY, split, split, info)


def _as_toml(key: str, value: Any) -> str:
    if value is None:
        return f"{key}=none"  # TOML cannot represent None
    plain = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if plain is None:
        return f"{key}=none"
    return tomli_w.dumps({"value": list(plain) if isinstance(plain, tuple) else plain}).replace("value", key, 1).strip()
