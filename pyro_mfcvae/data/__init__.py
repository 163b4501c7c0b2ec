"""Images: in memory, in files, in published formats, or drawn on the spot; and the table of their names."""

from typing import TYPE_CHECKING

from pyro_mfcvae.data.catalogue import DATASETS, DatasetInfo
from pyro_mfcvae.lazy import lazy_names

if TYPE_CHECKING:
    from pyro_mfcvae.data.datasets import Dataset, load_dataset
    from pyro_mfcvae.data.images import Split, as_float, validate_images

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "Split", "as_float", "load_dataset", "validate_images"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "pyro_mfcvae.data.datasets": ["Dataset", "load_dataset"],
        "pyro_mfcvae.data.images": ["Split", "as_float", "validate_images"],
    },
)
