"""Training of a pair: the loop, batches, devices, items with known clusters, callbacks, many seeds at once, and
curves.
"""

from pyro_mfcvae.train.callbacks import Callback
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.known import KnownItems
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

__all__ = ["Callback", "EpochRecord", "KnownItems", "Training", "open_fabric"]
