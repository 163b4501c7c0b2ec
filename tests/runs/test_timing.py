"""The estimate of a training's time: in proportion to the steps, and without a trace in the random state."""

import numpy as np
import pytest
import torch

from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.runs.timing import estimate_seconds


@pytest.mark.usefixtures("place")
def test_the_estimate_grows_with_the_steps() -> None:
    data = load_dataset("data.npz")
    small = [
        "networks.kind=mlp",
        "networks.hidden_dim=8",
        "networks.encoder_dims=[8, 8]",
        "networks.decoder_dims=[8, 8]",
    ]
    config = override(load_preset("shapes"), [*small, "training.epochs=[900, 100]", "mixture_fit.warmup_steps=2"])
    state = torch.get_rng_state()
    seconds = estimate_seconds(config, data)
    assert torch.equal(state, torch.get_rng_state())
    assert np.isfinite(seconds)
    assert 1 < seconds < 600  # a thousand steps of some milliseconds
