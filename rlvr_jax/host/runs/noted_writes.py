"""Writes of a checkpoint whose errors are noted at once.

Where several processes write a checkpoint, Orbax waits for all of them before it raises an error,
for twenty minutes. The process that the error is in has to end all of them before that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orbax.checkpoint as ocp


@contextmanager
def noting(errors: list[Exception]) -> Iterator[None]:
    """Add an exception that leaves the block to `errors`."""
    try:
        yield
    except Exception as error:
        errors.append(error)
        raise


def noting_handler(errors: list[Exception]) -> ocp.PyTreeCheckpointHandler:
    """Return a handler that writes arrays, and notes the errors of this process in `errors`."""
    handler = ocp.PyTreeCheckpointHandler()
    start = handler.async_save

    async def async_save(*args: Any, **kwargs: Any) -> list[Any]:
        with noting(errors):
            writes = await start(*args, **kwargs)
        return [_Noted(write, errors) for write in writes or []]

    # Not a subclass: Orbax finds a handler's arguments by its exact class.
    handler.async_save = async_save  # type: ignore[method-assign]
    return handler


class _Noted(ocp.future.Future):
    """A `_Noted` is a write that goes on; what it raises is noted in `errors` too."""

    def __init__(self, write: ocp.future.Future, errors: list[Exception]):
        self._write, self._errors = write, errors

    def result(self, timeout: int | None = None) -> Any:
        with noting(self._errors):
            return self._write.result(timeout)
