"""The command line ``mfcvae``, a file for each group of commands."""

from pyro_mfcvae.cli.app import main

__all__ = ["main"]
