"""The state that requests share: one computation at a time while other requests are answered, and the evidence of
an item.
"""

import threading
import time

import anyio
import pytest
import torch

from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.explore.desk import BusyError, Desk, StaleError


def test_one_computation_runs_at_a_time_and_the_event_loop_continues(desk: Desk) -> None:
    running, most, beats = [0], [0], [0]

    def work() -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.05)
        running[0] -= 1

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(desk.compute, work)
            while beats[0] < 10:
                await anyio.sleep(0.01)
                beats[0] += 1

    start = time.monotonic()
    anyio.run(main)
    assert most[0] == 1
    assert time.monotonic() - start < 2


def test_too_many_waiting_requests_are_refused(desk: Desk) -> None:
    refused = []
    release = threading.Event()

    async def ask() -> None:
        try:
            await desk.compute(release.wait)
        except BusyError as error:
            refused.append(str(error))
            release.set()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(18):
                group.start_soon(ask)

    anyio.run(main)
    assert refused == ["expected at most 16 waiting requests, got one more: try again in a moment"]


def test_typicality_is_the_share_of_items_with_less_evidence(desk: Desk) -> None:
    x = as_float(desk.items.images)
    assert torch.equal(desk.reference_evidence, desk.reference_evidence.sort().values)
    assert len(desk.reference_evidence) == 200
    typical = [desk.typicality(item[None]) for item in x[:40]]
    assert sum(typical) / 40 == pytest.approx(0.5, abs=0.2)
    desk.__dict__["reference_evidence"] = torch.tensor([-1e9, -1e9, -1e9, 1e9])
    assert desk.typicality(x[:1]) == 0.75


def test_the_view_of_a_facet_is_computed_once_per_change(desk: Desk) -> None:
    first = desk.view(0)
    assert desk.view(0) is first
    desk.change(0, lambda grouping: grouping.rename(1, 0, "other facet"))
    assert desk.view(0) is first
    desk.change(1, lambda grouping: grouping.cut(0, 2))
    assert desk.view(0) is not first
    desk.undo()
    desk.undo()
    desk.undo()
    assert not desk.can_undo
    assert desk.version == 4


def test_groups_that_come_back_get_the_names_that_they_had(desk: Desk) -> None:
    desk.change(0, lambda grouping: grouping.cut(0, 4).rename(0, 3, "odd"))
    desk.change(1, lambda grouping: grouping.cut(0, 1).recall(0, desk.history))
    desk.change(2, lambda grouping: grouping.cut(0, 4).recall(0, desk.history))
    assert desk.grouping.names(0)[3] == "odd"


@pytest.mark.parametrize("changed", ["groups.json", "model.safetensors"])
def test_what_another_process_has_changed_is_not_overwritten(desk: Desk, changed: str) -> None:
    """Another explorer has named a group, or a training has changed the model."""
    desk.change(0, lambda grouping: grouping.rename(0, 0, "mine"))
    path = desk.run.path / changed
    if changed == "groups.json":
        desk.run.write_grouping(desk.grouping.rename(0, 1, "theirs"))
    else:
        path.write_bytes(path.read_bytes() + b" ")
    content = path.read_bytes()
    for act in (lambda: desk.change(1, lambda grouping: grouping.rename(0, 0, "again")), desk.undo):
        with pytest.raises(StaleError, match="another program has changed them: start mfcvae explore again"):
            act()
    assert path.read_bytes() == content
    assert desk.version == 1 and desk.grouping.names(0)[0] == "mine"
