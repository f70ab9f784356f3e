"""TensorBoard's event files, written in the step itself.

tensorboardX's own writer has a thread behind a queue of ten events. On a full or read-only disk the
thread dies, and the training waits for room in the queue for ever. A step writes a few hundred
bytes, so that a thread saves nothing.
"""

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar


class Events:
    """An `Events` object appends the numbers of steps to one event file for each stage."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, BinaryIO] = {}

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append the values that are numbers, and hide earlier events of this step and later ones.

        Raises:
          OSError: the file cannot be written.
        """
        events = []
        if stage not in self._files:
            self._files[stage] = self._open(stage)
            first = {"step": step, "wall_time": time.time()}
            events = [
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(file_version="brain.Event:2", **first),
                Event(session_log=SessionLog(status=SessionLog.START), **first),
            ]
        numbers = {name: x for name, x in values.items() if isinstance(x, int | float)}
        events += [
            Event(step=step, wall_time=time.time(), summary=scalar(name, x))
            for name, x in numbers.items()
        ]
        self._files[stage].write(b"".join(_record(x.SerializeToString()) for x in events))

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def _open(self, stage: str) -> BinaryIO:
        folder = self._folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        return path.open("ab", buffering=0)  # so that nothing waits for `close`


def _record(data: bytes) -> bytes:
    """Return a TFRecord: the length and the data, each with its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + sums[0] + data + sums[1]
