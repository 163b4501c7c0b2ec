"""Images: in memory, in files, in published formats, or drawn on the spot; and the table of their names."""

from pyro_mfcvae.data.datasets import DATASETS, Dataset, DatasetInfo, load_dataset
from pyro_mfcvae.data.images import Split, as_float, validate_images

__all__ = ["DATASETS", "Dataset", "DatasetInfo", "Split", "as_float", "load_dataset", "validate_images"]
