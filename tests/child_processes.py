"""The processes of a command that a test has started in a new session."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # the process has ended in the meantime
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state != "Z":
                    found.append(int(entry.name))
    return found


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition becomes true within a number of seconds."""
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.1)
    return is_so()
