"""The command line ``mfcvae``, with one file per group of commands."""

from pyro_mfcvae.cli.app import main

__all__ = ["main"]
