"""Configurations as text: presets, ``config.toml``, and what ``--set`` changes."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.errors import InputError

# What `--set SECTION=NAME` stands for.
_CHOICES = {"prior": "kind", "likelihood": "kind", "networks": "kind", "assignment": "rule"}

_ADAPTER = TypeAdapter(Config)

_FOLDER = files("pyro_mfcvae.config").joinpath("presets")

DEFAULT = "shapes"
"""The preset of ``mfcvae fit`` without an argument."""


def parse_config(table: Mapping[str, Any], *, source: str) -> Config:
    """Check a table as it comes from TOML.

    Raises:
        InputError: a key is unknown, or a value does not fit; the message names every one of them and ``source``.
    """
    try:
        return _ADAPTER.validate_python(table)
    except ValidationError as error:
        complaints = "; ".join(_complaint(details) for details in error.errors())
        raise InputError(f"{source}: {complaints}") from None


def read_config(text: str, *, source: str) -> Config:
    """Parse a TOML text."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source} is not valid TOML: {error}") from None
    return parse_config(table, source=source)


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply settings of the form ``section.key=value``, the value written as in TOML (a bare word is a string).

    ``prior=NAME``, and the like for likelihood, networks and assignment, choose the part itself, one of ours or, by its
    import path, one of the user's own.
    """
    table: dict[str, Any] = asdict(config)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"a setting looks like training.epochs=5, got {setting!r}")
        *sections, name = key.strip().split(".")
        section = table
        for part in sections:
            section = section.get(part, {})
            if not isinstance(section, dict):
                raise InputError(f"setting {setting!r}: {part} is a value and has no keys")
        if sections[-1:] == ["options"] and isinstance(section, dict):
            section.setdefault(name, None)
        if not isinstance(section, dict) or name not in section:
            close = get_close_matches(key, setting_names(), n=3, cutoff=0.4) or setting_names()
            raise InputError(f"unknown setting {key!r}: did you mean {' or '.join(close)}?")
        value = _parse_value(text.strip())
        if name in _CHOICES and not sections and isinstance(value, str):
            table[name][_CHOICES[name]] = value
        else:
            section[name] = value
    return parse_config(table, source="--set")


def to_toml(config: Config) -> str:
    """The configuration as TOML; values that are None (for: decided by the code) are left out."""
    return tomli_w.dumps(_without_none(asdict(config)))


def setting_names() -> list[str]:
    """Every name that `override` knows."""
    names = []
    for name, value in asdict(Config(data="")).items():
        names += [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
    return names


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "none" else text


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }


def _complaint(details: Any) -> str:
    # Unions put the name of the tried alternative into the path; the keys of the file are what a user knows.
    path = [str(part) for part in details["loc"] if str(part).isidentifier()]
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "tuple_type":
        message = "expected a list such as [20, 10]"
    got = (
        "" if isinstance(details["input"], dict) or details["type"] == "value_error" else f", got {details['input']!r}"
    )
    return f"{'.'.join(path)}: {message[0].lower()}{message[1:]}{got}" if path else message


def preset_names() -> list[str]:
    """Every preset, in alphabetical order."""
    return sorted(entry.name.removesuffix(".toml") for entry in _FOLDER.iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str) -> Config:
    """The configuration of a preset."""
    if name not in preset_names():
        raise InputError(f"unknown preset {name!r}: expected one of {', '.join(preset_names())}")
    return read_config(_FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8"), source=f"preset {name}")
