"""Event files for TensorBoard that are written by the calling thread.

TensorBoard's own writer uses another thread, which prints a traceback if the disk is full.
"""

import os
import socket
import time
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from pyro_mfcvae.atomic_io import naming

_numbers = count()


class EventFile:
    """A file of events in TensorBoard's format. Its folder is made when the first events are written. Needs the extra
    ``log``.

    Args:
        folder: folder of the run's event files.
        step: number of steps taken so far. TensorBoard ignores values of later steps in earlier files.
    """

    def __init__(self, folder: Path, step: int) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._path = folder / name
        self._buffer = BytesIO()
        self._write(file_version="brain.Event:2")
        self._write(
            step=step + 1, session_log={"status": "START"}
        )  # the values of an epoch are written with the number of its last step

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record the numbers of a step; `save` writes them."""
        values = [{"tag": name, "simple_value": value} for name, value in metrics.items()]
        self._write(step=step, summary={"value": values})

    def save(self) -> None:
        """Write the recorded numbers.

        Raises:
            OSError: the file cannot be written.
        """
        with naming(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(self._buffer.getvalue())
        self._buffer = BytesIO()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        event = Event(wall_time=time.time(), **fields)
        RecordWriter(self._buffer).write(event.SerializeToString())
