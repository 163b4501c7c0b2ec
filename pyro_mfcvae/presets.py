"""The presets that come with the package, one TOML file each."""

from importlib.resources import files

from pyro_mfcvae.config import Config
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.settings import read_config

_FOLDER = files("pyro_mfcvae").joinpath("presets")

DEFAULT = "shapes"
"""The preset of ``mfcvae fit`` without an argument."""


def preset_names() -> list[str]:
    """Every preset, in alphabetical order."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Config:
    """The configuration of a preset."""
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(preset_names())}")
    return read_config(_FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8"), source=f"preset {name}")
