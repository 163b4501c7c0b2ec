"""The report of a run: one HTML page that needs no other file."""

from pyro_mfcvae.report.page import write_report

__all__ = ["write_report"]
