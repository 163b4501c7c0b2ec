"""Make every setting an option of the command line, such as ``--training.epochs 5``. This module does not import torch.

The help texts come from the docstrings of the sections, so a new setting needs no change here.
"""

import inspect
import re
from dataclasses import field, fields, is_dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from pyro_mfcvae.config.parts import PARTS
from pyro_mfcvae.config.schema import Config

# Settings of the preset auto only, see `pyro_mfcvae.config.auto.configure_auto`.
_OF_AUTO = {"facets": {"number": "Number of facets (preset auto)."}}

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+\n?(?: {5,}.+\n?)*)", re.MULTILINE)


def describe_settings() -> dict[str, dict[str, str]]:
    """Section → setting → help text, with the options of all kinds of parts. The key "" has settings without a
    section.
    """
    found: dict[str, dict[str, str]] = {"": {}}
    for name, text in _attributes(Config).items():
        if name not in _sections():
            found[""][name] = text
    for section, kind in _sections().items():
        found[section] = _attributes(kind) | _options_of_kinds(section) | _OF_AUTO.get(section, {})
        found[section].pop("options", None)
    return found


def _sections() -> dict[str, type]:
    return {f.name: f.type for f in fields(Config) if isinstance(f.type, type) and is_dataclass(f.type)}


def _options_of_kinds(section: str) -> dict[str, str]:
    """Name → help text of the options of all kinds; each help text names the kinds that have the option."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for kind, part in PARTS.get(section, {}).items():
        for name, text in _attributes(part.options).items() if part.options else ():
            kinds.setdefault((name, text), []).append(kind)
    texts: dict[str, list[str]] = {}
    for (name, text), of in kinds.items():
        texts.setdefault(name, []).append(f"{text.removesuffix('.')} ({', '.join(of)}).")
    return {name: " ".join(parts) for name, parts in texts.items()}


def _attributes(of: type) -> dict[str, str]:
    """The attributes in the docstrings of a class and its bases, with the description of each as a sentence on one
    line.
    """
    found: dict[str, str] = {}
    for kind in reversed(of.__mro__):
        entries = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
        found |= {name: text[0].upper() + " ".join(text.split())[1:] for name, text in _ATTRIBUTE.findall(entries)}
    return found


def make_flags() -> type:
    """A dataclass with a field per section, whose fields hold the given texts, or None."""
    settings = describe_settings()
    of_config: list[Any] = [(name, _option(text), None) for name, text in settings.pop("").items()]
    for section, texts in settings.items():
        summary = {"__doc__": (inspect.getdoc(_sections()[section]) or "").partition("\n")[0]}
        options = [(name, _option(text), None) for name, text in texts.items()]
        flags = make_dataclass(section, options, eq=False, namespace=summary)
        # If a field had no help text, tyro would search source files for one.
        of_config.append((section, flags, field(default_factory=flags, metadata={"help": summary["__doc__"]})))
    return make_dataclass("SettingFlags", of_config, eq=False)


def _option(text: str) -> Any:
    return Annotated[str | None, arg(metavar="VALUE", help=text, help_behavior_hint="")]


def as_settings(flags: Any, prefix: str = "") -> list[str]:
    """The given settings, in the form of `pyro_mfcvae.config.text.override`."""
    given: list[str] = []
    for f in fields(flags):
        value = getattr(flags, f.name)
        if is_dataclass(value):
            given += as_settings(value, f"{f.name}.")
        elif value is not None:
            given.append(f"{prefix}{f.name}={value}")
    return given


if TYPE_CHECKING:
    SettingFlags = Any
else:
    SettingFlags = make_flags()
