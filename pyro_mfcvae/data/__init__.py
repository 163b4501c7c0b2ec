"""Images and vectors, in memory, in files, in published formats or generated, and the table of named data sets."""

from typing import TYPE_CHECKING

from pyro_mfcvae.data.catalogue import DATASETS, DatasetInfo
from pyro_mfcvae.lazy import lazy_names

if TYPE_CHECKING:
    from pyro_mfcvae.data.datasets import Dataset, load_dataset
    from pyro_mfcvae.data.folders import MixedSizesError, image_sizes
    from pyro_mfcvae.data.images import Split, as_float, resize, validate_images, validate_vectors

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "MixedSizesError",
    "Split",
    "as_float",
    "image_sizes",
    "load_dataset",
    "resize",
    "validate_images",
    "validate_vectors",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "pyro_mfcvae.data.datasets": ["Dataset", "load_dataset"],
        "pyro_mfcvae.data.folders": ["MixedSizesError", "image_sizes"],
        "pyro_mfcvae.data.images": ["Split", "as_float", "resize", "validate_images", "validate_vectors"],
    },
)
