"""Records on their way into a stage: a shuffled stream, and before it what came back."""

from typing import Any

from rlvr_jax.host.problems.dataset import Record


class Stream:
    """Batches of a stream, one record after the other; what is given back comes first again."""

    def __init__(self, stream: Any):
        self._stream, self._waiting = stream, list[Record]()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, count: int) -> list[Record]:
        """The next records: those that wait, then as many batches of the stream as it needs."""
        while len(self._waiting) < count:
            self._waiting += next(self._stream)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def give_back(self, records: list[Record]) -> None:
        """Put records before all others, in their order."""
        self._waiting = [*records, *self._waiting]

    def get_state(self) -> dict[str, Any]:
        """Position of the stream and the records that wait; JSON."""
        return {"data": self._stream.get_state(), "queue": list(self._waiting)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was asked; in older checkpoints nothing waited."""
        self._stream.set_state(state["data"])
        self._waiting = list(state.get("queue", []))
