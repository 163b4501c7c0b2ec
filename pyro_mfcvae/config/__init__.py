"""The configuration of a run: its schema, its text, a user's own parts, and how it becomes a model and a guide."""

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset, override, preset_names, read_config, to_toml

__all__ = [
    "Config",
    "build_pair",
    "build_schedule",
    "load_preset",
    "override",
    "preset_names",
    "read_config",
    "to_toml",
]
