"""Parts of a user's own, found by their import path."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from pyro_mfcvae.errors import InputError


def make_part(path: str, kind: type | tuple[type, ...], *args: Any, **options: Any) -> Any:
    """Call what an import path such as ``my_package.my_module.MyPrior`` names; the working folder is searched as well.

    Args:
        path: of a class, or of a function that returns the part.
        kind: what the part must be an instance of; a tuple stands for a tuple of such parts.
        args: what such a part is called with.
        options: and the user's own options.

    Raises:
        InputError: there is no such thing, it cannot be called like this, or it makes something else.
    """
    make = find_part(path)
    try:
        part = make(*args, **options)
    except TypeError as error:
        raise InputError(
            f"{path} cannot be called with {len(args)} arguments and the options {options or 'none'}: {error}"
        ) from error
    found, wanted = (part, kind) if isinstance(kind, tuple) else ((part,), (kind,))
    if not isinstance(found, tuple) or [isinstance(p, k) for p, k in zip(found, wanted, strict=False)] != [True] * len(
        wanted
    ):
        names = " and ".join(k.__name__ for k in wanted)
        raise InputError(f"{path} must make a {names}, got {type(part).__name__}: derive it from that class")
    return part


def find_part(path: str) -> Callable[..., Any]:
    """What an import path names, for a caller that calls it itself; the working folder is searched as well.

    Raises:
        InputError: there is no such thing, or it cannot be called.
    """
    module, _, name = path.rpartition(".")
    if not module or path.startswith("."):
        raise InputError(f"expected an import path such as my_module.my_function, got {path!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        part = getattr(import_module(module), name)
    except ImportError as error:
        raise InputError(
            f"cannot import {module} for {path} ({error}): it must be installed, or lie in {here}"
        ) from error
    except AttributeError as error:
        raise InputError(
            f"{module} has no {name}: expected the import path of a class or a function, such as {module}.My"
        ) from error
    if not callable(part):
        raise InputError(f"{path} is a {type(part).__name__}: expected a class or a function")
    return part
