"""``python -m pyro_mfcvae`` runs the command ``mfcvae``."""

from pyro_mfcvae.cli.app import main

main()
