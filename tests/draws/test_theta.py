from collections.abc import Callable

from torch import Tensor

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.draws.theta import draw_theta


def test_random_parameters_of_the_priors_are_drawn_from_their_guide(make_x: Callable[[int], Tensor]) -> None:
    settings = ["facets.num_clusters=[3]", "facets.latent_dim=[2]", "prior=bayesian", "prior.covariance=full"]
    settings += ["networks.encoder_dims=[8]", "networks.decoder_dims=[8]", "networks.hidden_dim=8"]
    config = override(Config(data=DataConfig(source="none")), settings)
    pair = build_pair(config, (1, 2, 3))
    drawn = draw_theta(pair, num_samples=100)
    assert {name: array.shape for name, (_, array) in drawn.items()} == {
        "probs_0": (1, 100, 3),
        "loc_0": (1, 100, 3, 2),
        "scale_0": (1, 100, 3, 2),
        "corr_0": (1, 100, 3, 2, 2),
    }
    assert drawn["corr_0"][0] == ("chain", "draw", "cluster_0", "z_0_dim", "other_z_0_dim")
    dims, probs = drawn["probs_0"]
    assert dims == ("chain", "draw", "cluster_0")
    posterior = pair.guide.globals_guide.weights_posterior("probs_0")
    error = posterior.stddev.detach().numpy() / 10
    assert (abs(probs[0].mean(0) - posterior.mean.detach().numpy()) < 5 * error).all()
    data = to_inference_data(pair, make_x(4), num_samples=30, num_simulated=16)
    assert data["posterior"]["loc_0"].shape == (1, 30, 3, 2)
    assert draw_theta(build_pair(override(config, ["prior=gaussian"]), (1, 2, 3)), num_samples=3) == {}
