"""The relation of modules and Pyro's parameter store: a module owns its parameters, and the store refers to them.

In Pyro an entry of the store replaces the parameter of the same name in a module, and a copy of a module has the same
names. Here every copy gets its own name. If an entry is not the parameter of the module, there are three cases. If the
entry was loaded from a file, the module takes over all entries or none. If the parameter was replaced in the module,
the new parameter is kept. If the entry belongs to another module, an error is raised.
"""

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.nn.module import _Context
from pyro.params.param_store import ParamStoreDict
from pyro.poutine.lift_messenger import LiftMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.substitute_messenger import SubstituteMessenger
from torch import nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.interop.entries import Entry, is_default, network_buffers, owners, serial, stored_parameters

_OTHERWISE = "load the weights by MFCVAE.save and pyro_mfcvae.load, or load_state_dict, and clear the store"

# Name → the root module that has it.
_bearers: "weakref.WeakValueDictionary[str, PyroModule]" = weakref.WeakValueDictionary()
_local = threading.local()


@contextmanager
def outside_store() -> Iterator[None]:
    """Context in which our modules use their own parameters and neither read nor write Pyro's parameter store."""
    before = _is_outside()
    _local.outside = True
    try:
        yield
    finally:
        _local.outside = before


def _is_outside() -> bool:
    return getattr(_local, "outside", False)


class _StoreContext(_Context):
    """The context of a root module. Entering it from outside reconciles the parameters with the store."""

    def __init__(self, root: "StoredModule") -> None:
        super().__init__()
        self._root = weakref.ref(root)
        self._num_entries = 0

    def __enter__(self) -> None:
        if _is_outside():
            return
        _refuse_replaced_parameters()
        if not self.active and not pyro.settings.get("module_local_params"):
            root = self._root()
            if root is not None:
                reconcile(*root.stored_together())
                self._num_entries = len(pyro.get_param_store())
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        if _is_outside():
            return
        super().__exit__(*error)
        root = self._root()
        if not self.active and root is not None and len(pyro.get_param_store()) != self._num_entries:
            _note_created(*root.stored_together())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Context, ()  # the root of a copy makes its own context


Owned = tuple["StoredModule", Entry]


def _refuse_replaced_parameters() -> None:
    """Refuse poutine.lift and substitute, because Pyro would pass their values only to constrained parameters."""
    for handler in _PYRO_STACK:
        if isinstance(handler, LiftMessenger | SubstituteMessenger):
            raise InputError(
                f"expected no handler that replaces parameters, got {type(handler).__name__}, which the networks would "
                "not see: for random parameters of the prior use BayesianMixturePrior, to change values load_state_dict"
            )


class StoredModule(PyroModule):
    """A PyroModule that owns its parameters. Every copied or unpickled module gets its own name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__dict__["_pyro_context"] = _StoreContext(self)
        self._is_in_store = False

    def stored_together(self) -> tuple["StoredModule", ...]:
        """The root modules whose parameters a store restores together or not at all."""
        return (self,)

    def copied_name(self) -> str:
        """The name for this module, which was just copied or unpickled with the name of its original."""
        return f"{type(self).__name__}_{next(serial)}"

    def _pyro_set_supermodule(self, name: str, context: _Context) -> None:
        # Pyro's method refuses parts that ran before they were nested. This is not needed here, since modules own their
        # parameters.
        _rename(self, name, context)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_is_in_store"] = False
        _rename(self, self.copied_name(), _StoreContext(self))

    def __copy__(self) -> "StoredModule":
        raise InputError(
            f"expected a deep copy of {type(self).__name__}, got copy.copy, whose result would share its parts: use "
            "copy.deepcopy"
        )


def _rename(module: PyroModule, name: str, context: _Context) -> None:
    module.__dict__["_pyro_name"] = name
    module.__dict__["_pyro_context"] = context
    for key, child in module._modules.items():
        if isinstance(child, PyroModule):
            _rename(child, f"{name}.{key}" if name else key, context)


def bear_name(root: StoredModule) -> None:
    """Record a root module under its name."""
    _bearers[root._pyro_name] = root


def free_name(name: str) -> str:
    """The name itself if no module and no entry of Pyro's store uses it, otherwise a similar new name."""
    if name in _bearers or any(entry.startswith(f"{name}.") for entry in pyro.get_param_store()):
        return f"{name}_copy_{next(serial)}"
    return name


def reconcile(*roots: StoredModule, register: bool = True) -> None:
    """Make the parameters of root modules the entries of the store, or raise an error.

    Args:
        roots: modules that are restored together.
        register: whether to add parameters that the store does not have yet.

    Raises:
        InputError: the entries belong to another module with the same name, or a loaded store does not have all
            parameters of the roots.
    """
    store = pyro.get_param_store()
    held = store._params
    missing: list[Owned] = []
    other: list[Owned] = []
    num_own = 0
    for root in roots:
        for entry in stored_parameters(root):
            name, parameter, _ = entry
            if not parameter.requires_grad and parameter.grad is not None:
                parameter.grad = None  # an optimiser with momentum would continue to change frozen parameters
            found = held.get(name)
            if found is parameter:
                num_own += 1
            else:
                (missing if found is None else other).append((root, entry))
    if other:
        _settle(store, missing, other, num_own)
    elif missing and not all(root._is_in_store for root in roots):
        _adopt_default_names(store, roots)
    if register:
        for root, entry in missing:
            _put(store, root, entry)
        for root in roots:
            root.__dict__["_is_in_store"] = True


def _note_created(*roots: StoredModule) -> None:
    """Record the owner of parameters that were created inside a call, as Pyro's automatic guides do."""
    held = pyro.get_param_store()._params
    for root in roots:
        for name, parameter, _ in stored_parameters(root):
            if held.get(name) is parameter and parameter not in owners:
                owners[parameter] = weakref.ref(root)


def _put(store: ParamStoreDict, root: StoredModule, entry: Entry) -> None:
    name, parameter, constraint = entry
    # Not with pyro.param, because it would make a frozen parameter require gradients.
    store._params[name] = parameter
    store._param_to_name[parameter] = name
    store._constraints[name] = constraint
    owners[parameter] = weakref.ref(root)


def _settle(store: ParamStoreDict, missing: list[Owned], other: list[Owned], num_own: int) -> None:
    """Copy loaded values into the modules, and put the parameters that were replaced in a module into the store."""
    loaded = []
    for root, entry in other:
        owner = owners.get(store._params[entry[0]])
        if owner is None:
            loaded.append((root, entry))
        elif owner() is not root:
            raise InputError(
                f"expected a name of its own for every model and guide, got {entry[0]!r} in Pyro's parameter store "
                f"from another module of this name: give each its own name=…, or call pyro.clear_param_store() first"
            )
    if loaded:
        _check_loaded(store, loaded, missing, num_own)
    with torch.no_grad():
        for _, (name, parameter, _) in loaded:
            parameter.copy_(store._params[name])
    for root, entry in other:
        _put(store, root, entry)


def _check_loaded(store: ParamStoreDict, loaded: list[Owned], missing: list[Owned], num_own: int) -> None:
    if missing:
        raise InputError(
            f"expected a parameter store with all {len(loaded) + len(missing) + num_own} parameters of this model or "
            f"pair, got one without {missing[0][1][0]!r} and {len(missing) - 1} others: {_OTHERWISE}"
        )
    for _, (name, parameter, _) in loaded:
        if store._params[name].shape != parameter.shape:
            raise InputError(
                f"expected {name!r} of shape {tuple(parameter.shape)} in the parameter store, got "
                f"{tuple(store._params[name].shape)}: {_OTHERWISE}"
            )
    if num_own == 0:
        _check_buffers({root for root, _ in loaded})


def _check_buffers(roots: Iterable[StoredModule]) -> None:
    """Refuse networks with buffers, because a parameter store does not restore them."""
    if buffers := [name for root in roots for name in network_buffers(root)]:
        raise InputError(
            f"expected networks without buffers, since Pyro's parameter store does not save any, got {buffers[0]!r} "
            f"and {len(buffers) - 1} others (the statistics of batch norm): {_OTHERWISE}"
        )


def _adopt_default_names(store: ParamStoreDict, roots: tuple[StoredModule, ...]) -> None:
    """Take over the loaded entries of a single pair that was saved under default names, which differ from run to run.

    The entries are removed from the store, since these roots have other names.
    """
    if not any(is_default(root._pyro_name) for root in roots):
        return
    loaded = {name: value for name, value in store._params.items() if is_default(name) and value not in owners}
    if not loaded:
        return
    saved = sorted({name.split(".")[0] for name in loaded}, key=len)  # a guide's name is longer than its model's
    own = [[entry for entry in stored_parameters(root)] for root in roots]
    found: list[tuple[nn.Parameter, Any]] = []
    if len(saved) == len(roots):
        for root, name, entries in zip(roots, saved, own, strict=True):
            found += [(p, loaded.get(name + entry.removeprefix(root._pyro_name))) for entry, p, _ in entries]
    if not found or any(value is None or value.shape != parameter.shape for parameter, value in found):
        raise InputError(
            f"expected a parameter store with entries of {roots[-1]._pyro_name!r}, got loaded ones of "
            f"{' and '.join(saved)}, and default names differ from run to run: give the model the same name=… when you "
            "save and when you load, or use MFCVAE.save and pyro_mfcvae.load"
        )
    _check_buffers(roots)
    with torch.no_grad():
        for parameter, value in found:
            parameter.copy_(value)
    for name in loaded:
        del store[name]
