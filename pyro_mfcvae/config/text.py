"""Configurations as text: presets, ``config.toml``, and changes by ``--set``. This module does not import torch."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from pyro_mfcvae.config.custom_parts import import_module_of
from pyro_mfcvae.config.parts import PARTS, describe_errors, is_import_path, kept_options, option_names
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.errors import InputError

# The key that `--set SECTION=VALUE` changes in each section.
_SHORT = {"data": "source", **dict.fromkeys(PARTS, "kind")}

_FOLDER = Path(__file__).parent / "presets"

DEFAULT = "shapes"
"""The preset of ``mfcvae fit`` without an argument."""

# A usual configuration has about 2,000 characters and keys of 3 parts. Much longer or deeper texts are refused, because
# parsing them could take seconds.
_MAX_CHARACTERS = 50_000
_MAX_DEPTH = 10
_LONG_KEY = re.compile(r"""(?:[\w"'-]+\s*\.\s*){100}""")


AUTO = "auto"
"""The preset that chooses its settings from the data, see `pyro_mfcvae.config.auto`."""
AUTO_DESCRIPTION = "Settings that follow from the data: for images or vectors that no other preset was made for"


def takes_auto(preset: str | None, data: str | None) -> bool:
    """Whether ``auto`` configures a run, either because it is the preset or because there is no preset for the data."""
    return preset == AUTO or (preset is None and data is not None and data not in preset_names())


@cache
def _adapter() -> TypeAdapter[Config]:
    """The adapter that checks tables. It is made when it is first needed, so that help appears quickly."""
    return TypeAdapter(Config)


def parse_config(table: Mapping[str, Any], *, source: str) -> Config:
    """Check a table that was read from TOML.

    Raises:
        InputError: a key is unknown or a value does not fit. The message names all of them and ``source``.
    """
    try:
        return _adapter().validate_python(table)
    except ValidationError as error:
        raise InputError(f"{source}: {describe_errors(error)}") from None


def read_config(text: str, *, source: str) -> Config:
    """Parse a TOML text. Custom parts are only named; no module is imported."""
    try:
        table = _parse_toml(text, source)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"expected valid TOML in {source}, got an error: {error}") from None
    return parse_config(table, source=source)


def override(config: Config, settings: Iterable[str]) -> Config:
    """Apply settings of the form ``section.key=value``, with the value written as in TOML (a bare word is a string).

    ``prior=NAME`` is short for ``prior.kind=NAME``, and ``prior.covariance=full`` for
    ``prior.options.covariance=full``; the same holds for likelihood, networks and assignment. A change of kind keeps
    the options that both kinds have. The module of a custom part is imported here, also from the working folder.

    Raises:
        InputError: a setting is unknown or does not fit.
    """
    table: dict[str, Any] = asdict(config)
    parsed = [_parse_setting(setting) for setting in settings]
    for keys, value in parsed:  # kinds first, because they decide which options exist
        if len(keys) == 2 and keys[0] in PARTS and keys[1] == "kind":
            section = table[keys[0]]
            section["options"] = kept_options(keys[0], section["kind"], section["options"], str(value))
            section["kind"] = value
        if keys[-1] in ("kind", "globals_guide") and isinstance(value, str) and is_import_path(value):
            import_module_of(value)
    for keys, value in parsed:
        _assign(table, keys, value)
    return parse_config(table, source="--set")


def to_toml(config: Config) -> str:
    """The configuration as TOML, without values that are None and without empty sections."""
    return tomli_w.dumps(_without_empty(asdict(config)))


def setting_names(config: Config | None = None) -> list[str]:
    """All names that `override` accepts, for the kinds of a configuration, or for the default kinds if it is None."""
    names = []
    for name, value in asdict(config or Config(data=DataConfig(source=""))).items():
        if not isinstance(value, dict):
            names.append(name)
            continue
        names += [f"{name}.{key}" for key in value if key != "options"]
        names += [f"{name}.options.{key}" for key in value.get("options", {})]
    return names


def _parse_setting(setting: str) -> tuple[list[str], Any]:
    """Parse a setting to its keys, outermost first and in their long form, and its value."""
    name, equals, text = setting.partition("=")
    if not equals:
        raise InputError(f"expected a setting such as training.epochs=5, got {setting!r}: write NAME=VALUE")
    keys = name.strip().split(".")
    value = _parse_value(text.strip(), name.strip())
    if len(keys) == 1 and keys[0] in _SHORT and isinstance(value, str | None):
        keys.append(_SHORT[keys[0]])
    return keys, value


def _assign(table: dict[str, Any], keys: list[str], value: Any) -> None:
    section, *rest = keys
    name = ".".join(keys)
    if section in PARTS and len(rest) == 1 and rest[0] not in table[section]:
        kind = table[section]["kind"]
        known = option_names(section, kind)
        if known is None or any(rest[0] in (option_names(section, other) or ()) for other in PARTS[section]):
            rest = ["options", *rest]
    inner = table
    for key in [section, *rest][:-1]:
        inner = inner.get(key, {})
        if not isinstance(inner, dict):
            raise InputError(f"expected no keys below {key}, which is a value, got {name}: leave them out")
    last = keys[-1]
    if rest[:-1] != ["options"] and last not in inner:
        names = _all_setting_names()
        close = get_close_matches(name, names, n=3, cutoff=0.4) or get_close_matches(last, names, n=3, cutoff=0.2)
        raise InputError(f"unknown setting {name!r}: did you mean {' or '.join(close)}?")
    inner[last] = value


def _all_setting_names() -> list[str]:
    """All names in their short form, for all kinds."""
    names = [name.replace(".options.", ".") for name in setting_names()]
    names += [
        f"{section}.{name}"
        for section in PARTS
        for kind in PARTS[section]
        for name in option_names(section, kind) or ()
    ]
    return list(dict.fromkeys(names))


def _parse_value(text: str, setting: str) -> Any:
    try:
        return _parse_toml(f"value = {text}", setting)["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "none" else text


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    """Parse a text, after a check of its length and depth."""
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"expected at most {_MAX_CHARACTERS:,} characters, got {len(text):,} in {source}: shorten it")
    too_deep = f"expected keys and lists nested at most {_MAX_DEPTH} deep, got deeper ones in {source}: flatten them"
    if _LONG_KEY.search(text):
        raise InputError(too_deep)
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise InputError(too_deep) from None
    layer: list[Any] = [table]
    for _ in range(_MAX_DEPTH):
        values = (value for inner in layer for value in (inner.values() if isinstance(inner, dict) else inner))
        layer = [value for value in values if isinstance(value, dict | list)]
    if layer:
        raise InputError(too_deep)
    return table


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_empty(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None and value != {}
    }


def preset_names() -> list[str]:
    """Every preset, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_preset(name: str) -> Config:
    """The configuration of a preset."""
    if name not in preset_names():
        close = get_close_matches(name, preset_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else "choose one of them"
        raise InputError(f"expected a preset out of {', '.join(preset_names())}, got {name!r}: {hint}")
    return read_config((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"), source=f"preset {name}")
