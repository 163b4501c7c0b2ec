"""Custom parts, which are found by their import path. No module is imported because of a configuration file.

A path is looked up among the modules that are already imported. The user imports a module by an ``import`` in their
program, by a path in ``--set``, by ``--parts MODULE``, or by installing a package that declares the module as an entry
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
"""The group of entry points in which an installed package declares its modules with parts."""

Base = type | tuple[type, ...]
"""The class that a part must be an instance of; a tuple of classes means a tuple of such parts."""


def import_parts(modules: Sequence[str]) -> None:
    """Import modules, also from the working folder. Their classes and functions can then be used as parts.

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
                    f"expected an installed module, or one in {here}, got {module}, which fails ({error}): correct it"
                ) from error


def import_module_of(path: str) -> None:
    """Import the module of an import path that the user typed."""
    import_parts([_split(path)[0]])


def find_part(path: str, base: Base) -> Callable[..., Any]:
    """Find the class or function of an import path, in a module that is already imported.

    Args:
        path: such as ``my_package.my_module.MyPrior``.
        base: the class of the part. A class must derive from it; a function must have it as its return annotation.

    Raises:
        InputError: the module is not imported, has no such class or function, or this makes something else.
    """
    module, name = _split(path)
    if module not in sys.modules:
        _load_entry_point(module)
    if module not in sys.modules:
        raise InputError(
            f"expected a part whose module is imported, got {path}: if you trust it, give --parts {module} (in Python: "
            f"import {module}), or let its package declare it as an entry point of {ENTRY_POINTS}"
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
    """Find the function of an import path that the user typed. Its module is imported, also from the working folder.

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
        make: the class or function.
        base: what the part must be an instance of.
        args: the first arguments.
        provided: further arguments; only those that the signature names are passed.
        options: the user's options.

    Raises:
        InputError: the call fails, or its result is not an instance of ``base``.
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
    """The names of the classes of a part, for messages."""
    return " and ".join(b.__name__ for b in base) if isinstance(base, tuple) else base.__name__


def _makes(part: Any, base: Base) -> bool:
    """Whether a class derives from ``base``, or a function has it as its return annotation; nothing is called."""
    if inspect.isclass(part):
        return not isinstance(base, tuple) and issubclass(part, base)
    if not inspect.isfunction(part):
        return False
    try:
        made = get_type_hints(part).get("return")
    except Exception:  # an annotation that cannot be evaluated may raise any exception
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
    """Import a module that an installed package declares as an entry point."""
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.module == module:
            import_module(module)


@contextmanager
def _working_folder_searched() -> Iterator[Path]:
    """Context in which the working folder is searched after all other folders; afterwards the search path is
    restored.
    """
    here, before = Path.cwd(), list(sys.path)
    sys.path.append(str(here))
    try:
        yield here
    finally:
        sys.path[:] = before
