"""Two facets over small networks: the configuration from which tests that train derive theirs."""

from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override

LADDER = ("networks.encoder_dims=[8, 9]", "networks.decoder_dims=[8, 9]", "networks.hidden_dim=8")

# With one facet there are half of the operations; the number of facets does not matter here.
ONE_FACET = (
    "facets.num_clusters=[3]",
    "facets.latent_dim=[2]",
    "networks.encoder_dims=[8]",
    "networks.decoder_dims=[8]",
)

SMALL = override(
    Config(data=DataConfig(source="none")),
    [
        "facets.num_clusters=[3, 4]",
        "facets.latent_dim=[2, 2]",
        *LADDER,
        "training.epochs=1",
        "training.batch_size=20",
    ],
)
