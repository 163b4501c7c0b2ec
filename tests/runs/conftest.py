"""A run that was not interrupted."""

import pytest
import torch
from small_runs import TINY, make_data

from pyro_mfcvae.runs.fit import Fit, fit
from pyro_mfcvae.runs.folder import RunFolder


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """A run that was not interrupted, with its figures."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    try:
        return fit(TINY, RunFolder.new(tmp_path_factory.mktemp("whole")), data=make_data(), device="cpu")
    finally:
        torch.set_default_dtype(torch.float64)
