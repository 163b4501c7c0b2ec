"""``python -m pyro_mfcvae`` is ``mfcvae``."""

from pyro_mfcvae.cli.app import main

main()
