"""The configuration of a run: its schema, its text form, custom parts, and functions that build a pair from it."""

from typing import TYPE_CHECKING

from pyro_mfcvae.config.custom_parts import import_parts
from pyro_mfcvae.config.schema import (
    AssignmentConfig,
    Config,
    DataConfig,
    FacetsConfig,
    LikelihoodConfig,
    NetworksConfig,
    PriorConfig,
)
from pyro_mfcvae.config.text import load_preset, override, preset_names, read_config, to_toml
from pyro_mfcvae.config.training_sections import MixtureFitConfig, ScheduleConfig, SupervisionConfig, TrainingConfig
from pyro_mfcvae.lazy import lazy_names

if TYPE_CHECKING:
    from pyro_mfcvae.config.build import build_pair, build_schedule

__all__ = [
    "AssignmentConfig",
    "Config",
    "DataConfig",
    "FacetsConfig",
    "LikelihoodConfig",
    "MixtureFitConfig",
    "NetworksConfig",
    "PriorConfig",
    "ScheduleConfig",
    "SupervisionConfig",
    "TrainingConfig",
    "build_pair",
    "build_schedule",
    "import_parts",
    "load_preset",
    "override",
    "preset_names",
    "read_config",
    "to_toml",
]

__getattr__, __dir__ = lazy_names(__name__, {"pyro_mfcvae.config.build": ["build_pair", "build_schedule"]})
