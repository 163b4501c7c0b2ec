"""The options that several commands have, and how the command line reads a path. This module does not import torch."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pyro_mfcvae.atomic_io import expand_user
from pyro_mfcvae.errors import InputError


def option(metavar: str | None = None, help: str | None = None) -> Any:
    """The form of an option in the help text; a default is shown if it is informative."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=_hint)


def _hint(default: str) -> str:
    return "" if default in ("None", "False", "") else f"(default: {default})"


Several = tuple[tuple[str, ...], ...]
"""Type of an option that takes several values and may be given several times, with `UseAppendAction`."""

Run = Annotated[Path, Positional, option("RUN", "The run's folder.")]
Data = Annotated[str | None, option("NAME|PATH")]
Directory = Annotated[Path | None, option("DIR")]
File = Annotated[Path | None, option("FILE")]
Flag = Annotated[bool, FlagCreatePairsOff, option()]
Count = Annotated[int, option("N")]
Device = Annotated[str, option("DEVICE", "Where to compute: auto, cpu or cuda.")]
Seed = Annotated[int, option("N", "Seed of all random draws.")]
Preset = Annotated[str | None, Positional, option("[PRESET]")]
Settings = Annotated[
    Several,
    UseAppendAction,
    option(
        "KEY=VALUE ...",
        'Settings of the preset to change, such as training.epochs=5 "facets.num_clusters=[20, 10]".',
    ),
]
Root = Annotated[
    Path | None, option("DIR", "Folder of the data sets' files; by default the environment variable MFCVAE_DATA.")
]
Parts = Annotated[
    tuple[str, ...],
    UseAppendAction,
    option(
        "MODULE",
        "A module with custom parts of the run. It is imported, also from the working folder. Give the option once "
        "per module.",
    ),
]
Json = Annotated[bool, FlagCreatePairsOff, option(None, "Print the results as one JSON document and nothing else.")]


@dataclass(frozen=True)
class CommonOptions:
    """Options at the end of most commands."""

    parts: Parts = ()
    root: Root = None
    json: Json = False


# With an empty name the options of a group get no prefix, like options of the command itself.
Common = Annotated[CommonOptions, tyro.conf.arg(name="")]
COMMON = CommonOptions()


def is_number(text: str) -> bool:
    """Whether a text is a number of at most 9 digits; Python refuses to convert thousands of them."""
    return text.isdecimal() and len(text) < 10


def parse_choices(texts: Several, what: str) -> dict[int, int]:
    """Facet → number, from texts such as 0=3.

    Args:
        texts: one text per facet.
        what: what the number is, "cluster", "group" or "number of groups".
    """
    chosen = {}
    for text in chain.from_iterable(texts):
        facet, _, number = text.partition("=")
        if not (is_number(facet) and is_number(number)):
            raise InputError(
                f"expected a {what} such as 0=3 (facet 0, {what} 3), got {text[:50]!r}: "
                f"write FACET={what.split()[0].upper()}"
            )
        if int(facet) in chosen:
            raise InputError(f"expected one {what} of every facet, got two of facet {int(facet)}: give them one by one")
        chosen[int(facet)] = int(number)
    return chosen


registry = ConstructorRegistry()
"""Type of a path. ``~`` is replaced by the home folder, also in ``--out=~/x``, in which a shell does not expand it."""


@registry.primitive_rule
def _path_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda texts: expand_user(texts[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )
