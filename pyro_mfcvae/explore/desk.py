"""The shared state of all requests: the run, its items, the groups with the user's changes, and one queue for the
model."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import anyio
import pyro
import torch
from anyio.to_thread import run_sync

from pyro_mfcvae.atomic_io import read_text
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.explore.items import FacetView, Items
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping

T = TypeVar("T")

_MOST_UNDOS = 200
_MOST_WAITING = 16
_NUM_REFERENCE = 200
_REFERENCE_DRAWS = 16


class StaleError(InputError):
    """Raised if the groups have changed since a form was made."""


class BusyError(InputError):
    """Raised if too many requests wait for the model."""


@dataclass(eq=False)
class Desk:
    """The state of one explorer.

    Attributes:
        run: the folder, in which groups and names are saved.
        pair: the fitted model and guide.
        items: all items with their assignments.
        grouping: the current groups; every change replaces them.
        version: the number of changes so far. Every form contains it, so that an outdated form changes nothing.
    """

    run: RunFolder
    pair: MFCVAE
    items: Items
    grouping: Grouping
    version: int = 0
    _undos: list[Grouping] = field(default_factory=list)
    _views: dict[int, tuple[Any, FacetView]] = field(default_factory=dict)
    _change: Lock = field(default_factory=Lock)
    _num_waiting: int = 0  # number of requests that compute or wait; only the event loop changes it
    _kept: tuple[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._kept = self.run.groups_state()

    @property
    def num_facets(self) -> int:
        """J."""
        return self.pair.num_facets

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to undo."""
        return bool(self._undos)

    def view(self, facet: int) -> FacetView:
        """The items of a facet by its current groups. They are computed once after every change."""
        own = self.grouping.facets[self.check_facet(facet)]
        cached = self._views.get(facet)
        if cached is None or cached[0] is not own:
            cached = self._views[facet] = (own, FacetView.of(self.items, facet, own))
        return cached[1]

    def change(self, version: int, edit: Callable[[Grouping], Grouping]) -> None:
        """Apply a change to the groups, and save them.

        Raises:
            StaleError: the groups are no longer those of ``version``.
        """
        with self._change:
            if version != self.version:
                raise StaleError(
                    f"expected a form for version {self.version} of the groups, got one for {version}: the groups "
                    "changed in another window, so load the page again"
                )
            edited = edit(self.grouping)
            self._keep(edited)
            self._undos = [*self._undos, self.grouping][-_MOST_UNDOS:]
            self.grouping = edited
            self.version += 1

    @property
    def history(self) -> tuple[Grouping, ...]:
        """The groups after each change that can be undone; the last entry has the current groups."""
        return (*self._undos, self.grouping)

    def undo(self) -> None:
        """Undo the last change, if there is one."""
        with self._change:
            if self._undos:
                self._keep(self._undos[-1])
                self.grouping = self._undos.pop()
                self.version += 1

    def _keep(self, grouping: Grouping) -> None:
        """Write the groups, unless another process has changed the run since they were read."""
        if self.run.groups_state() != self._kept:
            raise StaleError(
                f"expected {self.run.groups_path} and the model as this explorer read them, but another program has "
                "changed them: start mfcvae explore again"
            )
        self.run.write_grouping(grouping)
        self._kept = self.run.groups_state()

    def check_facet(self, facet: int) -> int:
        """Return the number of the facet, or raise an error if there is no such facet."""
        if not 0 <= facet < self.num_facets:
            raise InputError(f"expected a facet from 0 to {self.num_facets - 1}, got {facet}: choose one of these")
        return facet

    def check_item(self, item: int) -> int:
        """Return the number of the item, or raise an error if there is no such item."""
        if not 0 <= item < len(self.items):
            raise InputError(f"expected an item from 0 to {len(self.items) - 1}, got {item}: choose one of these")
        return item

    @cached_property
    def _limiter(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(1)

    async def compute(self, work: Callable[[], T]) -> T:
        """Run a task with the model in another thread, one task at a time, while other requests are answered."""
        if self._num_waiting > _MOST_WAITING:
            raise BusyError(f"expected at most {_MOST_WAITING} waiting requests, got one more: try again in a moment")
        self._num_waiting += 1
        try:
            return await run_sync(self._without_gradients, work, limiter=self._limiter)
        finally:
            self._num_waiting -= 1

    def _without_gradients(self, work: Callable[[], T]) -> T:
        with torch.no_grad(), pyro.get_param_store().scope():
            return work()

    @cached_property
    def reference_evidence(self) -> torch.Tensor:
        """log p(x) of up to 200 evenly spread items, in ascending order, with which the evidence of an image is
        compared.
        """
        chosen = torch.linspace(0, len(self.items) - 1, min(len(self.items), _NUM_REFERENCE)).long()
        x = as_float(self.items.images[chosen])
        return self.pair.log_evidence(x, _REFERENCE_DRAWS).sort().values

    def typicality(self, x: torch.Tensor) -> float:
        """Share of the reference items whose evidence is at most that of the item ``x`` (1, *event_shape)."""
        evidence = self.pair.log_evidence(x, _REFERENCE_DRAWS)
        return float((self.reference_evidence <= evidence).double().mean())


@dataclass(frozen=True)
class Findings:
    """The contents of ``checks/checks.json``.

    Attributes:
        sentences: one per facet, then one for the whole model; empty if the run was not checked.
        records: the checks.
    """

    sentences: tuple[str, ...] = ()
    records: tuple[dict[str, Any], ...] = ()

    def of(self, facet: int) -> str:
        """The sentence of a facet, or an empty text."""
        return self.sentences[facet] if facet < len(self.sentences) - 1 else ""

    def about(self, facet: int | None) -> list[dict[str, Any]]:
        """The checks of a facet, or of the whole model."""
        return [record for record in self.records if record.get("facet") == facet]


def read_checks(run: RunFolder) -> Findings:
    """Read the checks in this run's folder; a link that leads out of the folder is not followed."""
    path = run.path / "checks" / "checks.json"
    if not path.is_file() or not path.resolve().is_relative_to(run.path.resolve()):
        return Findings()
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return Findings()
    if not isinstance(content, dict):
        return Findings()
    sentences, records = (content.get(key) for key in ("sentences", "checks"))
    if not isinstance(sentences, list) or not isinstance(records, list):
        return Findings()
    wanted = ("name", "asks", "value", "unit", "verdict", "advice")
    kept = [r for r in records if isinstance(r, dict) and all(key in r for key in wanted)]
    return Findings(tuple(map(str, sentences)), tuple(kept))
