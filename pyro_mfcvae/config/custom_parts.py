"""A user's own parts, found by their import path. A configuration file never makes Python import anything.

A path is looked up among the modules that are imported already. The user imports a module by an ``import`` in their
program, by a path in ``--set``, by ``--parts MODULE``, or by installing a package that announces the module as an entry
point of the group ``pyro_mfcvae.parts``.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pyro_mfcvae.errors import InputError

ENTRY_POINTS = "pyro_mfcvae.parts"
"""The group of entry points by which an installed package announces its modules with parts."""

Base = type | tuple[type, ...]
"""The class that a part must be an instance of; a tuple of classes stands for a tuple of such parts."""


def import_parts(modules: Sequence[str]) -> None:
    """Import modules whose classes and functions may then be named as parts, from the working folder as well.

    Raises:
        InputError: there is no such module, or it cannot be imported.
    """
    for module in modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise InputError(f"expected the name of a module, such as my_parts, got {module!r}: write no path or .py")
        with _working_folder_searched() as here:
            try:
                import_module(module)
            except ImportError as error:
                raise InputError(
                    f"cannot import {module} ({error}): expected an installed module, or one in {here}"
                ) from error


def import_module_of(path: str) -> None:
    """Import the module of an import path that the user typed."""
    import_parts([_split(path)[0]])


def find_part(path: str, base: Base) -> Callable[..., Any]:
    """The class or function of an import path, in a module that is imported already.

    Args:
        path: such as ``my_package.my_module.MyPrior``.
        base: the class that a part must have: a class must derive from it, a function must be annotated to return it.

    Raises:
        InputError: its module is not imported, has no such class or function, or this makes something else.
    """
    module, name = _split(path)
    if module not in sys.modules:
        _load_entry_point(module)
    if module not in sys.modules:
        raise InputError(
            f"expected a part whose module is imported, got {path}: if you trust it, give --parts {module} (in Python: "
            f"import {module}), or let its package announce it as an entry point of {ENTRY_POINTS}"
        )
    part = getattr(sys.modules[module], name, None)
    if part is None:
        raise InputError(
            f"expected a class or a function in {module}, got {name!r}, which is not there: check the name"
        )
    if not _makes(part, base):
        raise InputError(
            f"expected a class that derives from {describe(base)}, or a function annotated to return one, got {path}: "
            "derive it from that class, or annotate it"
        )
    found: Callable[..., Any] = part
    return found


def find_function(path: str) -> Callable[..., Any]:
    """The function of an import path that the user typed; its module is imported, from the working folder as well.

    Raises:
        InputError: there is no such function.
    """
    import_module_of(path)
    module, name = _split(path)
    function = getattr(sys.modules[module], name, None)
    if not callable(function):
        raise InputError(f"expected a function in {module}, got {name!r}, which is not one: check the name")
    return function


def make_part(
    make: Callable[..., Any], base: Base, *args: Any, provided: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Call a class or function that makes a part.

    Args:
        make: what is called.
        base: what the part must be an instance of.
        args: the first arguments.
        provided: further arguments; those that its signature names are passed.
        options: the user's.

    Raises:
        InputError: it cannot be called like this, or it makes something else.
    """
    named = inspect.signature(make).parameters
    given = {name: value for name, value in provided.items() if name in named and name not in options}
    try:
        part = make(*args, **given, **options)
    except TypeError as error:
        own = [name for name, parameter in named.items() if parameter.kind is not parameter.VAR_POSITIONAL]
        accepted = [name for name in own[len(args) :] if name not in given and name != "kwargs"]
        raise InputError(
            f"expected options of {make.__module__}.{make.__name__} out of {', '.join(accepted) or 'none'}, got "
            f"{', '.join(options) or 'none'} ({error}): change them"
        ) from error
    found, wanted = (part, base) if isinstance(base, tuple) else ((part,), (base,))
    if (
        not isinstance(found, tuple)
        or len(found) != len(wanted)
        or not all(isinstance(p, w) for p, w in zip(found, wanted, strict=True))
    ):
        raise InputError(
            f"expected {make.__name__} to make a {describe(base)}, got a {type(part).__name__}: correct it"
        )
    return part


def describe(base: Base) -> str:
    """The names of the classes that a part may have."""
    return " and ".join(b.__name__ for b in base) if isinstance(base, tuple) else base.__name__


def _makes(part: Any, base: Base) -> bool:
    """Whether a class derives from the base, or a function is annotated to return it; nothing is called."""
    if inspect.isclass(part):
        return not isinstance(base, tuple) and issubclass(part, base)
    if not inspect.isfunction(part):
        return False
    try:
        made = get_type_hints(part).get("return")
    except Exception:  # an annotation that cannot be evaluated may raise anything
        return False
    if isinstance(base, tuple):
        kinds = get_args(made)
        return get_origin(made) is tuple and len(kinds) == len(base) and all(map(_derives, kinds, base))
    return _derives(made, base)


def _derives(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base)


def _split(path: str) -> tuple[str, str]:
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"expected an import path such as my_module.MyPart, got {path!r}: write MODULE.NAME")
    return module, name


def _load_entry_point(module: str) -> None:
    """Import a module that an installed package announces."""
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.module == module:
            import_module(module)


@contextmanager
def _working_folder_searched() -> Iterator[Path]:
    """Search the working folder as well, last of all, and restore the search path afterwards."""
    here, before = Path.cwd(), list(sys.path)
    sys.path.append(str(here))
    try:
        yield here
    finally:
        sys.path[:] = before
