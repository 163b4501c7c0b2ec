"""``python -m pyro_mfcvae`` is ``mfcvae``."""

from pyro_mfcvae.cli import main

main()
