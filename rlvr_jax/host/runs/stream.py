"""A stream feeds records into a stage, and keeps a queue of the records that a step gave back."""

from typing import Any, Protocol

from rlvr_jax.host.problems.dataset import Record


class Feed(Protocol):
    """A `Feed` hands out the records of each step, and its state is part of every checkpoint."""

    def __len__(self) -> int:
        """Return the number of records that wait."""

    def take(self, count: int) -> list[Record]:
        """Return the next `count` records."""

    def give_back(self, records: list[Record]) -> None:
        """Accept records that a step has not used."""

    def get_state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_state`."""


class Stream:
    """A `Stream` hands out the records of a batch iterator one after the other.

    Records that the caller gives back wait in a queue and come first the next time. `len` is the
    length of that queue.
    """

    def __init__(self, stream: Any):
        self._stream, self._waiting = stream, list[Record]()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> list[Record]:
        """Return the next `count` records: first the waiting ones, then those of new batches."""
        while len(self._waiting) < count:
            self._waiting += next(self._stream)
        records, self._waiting = self._waiting[:count], self._waiting[count:]
        return records

    def give_back(self, records: list[Record]) -> None:
        """Put records back at the front of the queue, in their order."""
        self._waiting = [*records, *self._waiting]

    def get_state(self) -> dict[str, Any]:
        """Return the position of the iterator and the waiting records, as JSON values."""
        return {"data": self._stream.get_state(), "queue": list(self._waiting)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state of `get_state`; older checkpoints have no waiting records."""
        self._stream.set_state(state["data"])
        self._waiting = list(state.get("queue", []))
