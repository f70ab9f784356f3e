"""Inside a guarded step, values are read from the device by `jax.device_get` only, on CPU too."""

import jax
import numpy as np
import pytest
from jax._src.array import ArrayImpl
from jax._src.lib import guard_lib


def _refuse(value) -> None:
    """Raise where an accelerator would refuse to read a value in a guarded step."""
    state = guard_lib.thread_local_state()
    guarded = state.device_to_host == guard_lib.TransferGuardLevel.DISALLOW
    if guarded and not state.explicit_device_get and isinstance(value, jax.Array):
        raise AssertionError("an implicit transfer from the device to the host")


@pytest.fixture(autouse=True, scope="module")
def strict_reads():
    """On CPU arrays of the device are shared with the host, so that the guard lets them pass."""
    with pytest.MonkeyPatch.context() as patch:
        _make_strict(patch)
        yield


def _make_strict(patch: pytest.MonkeyPatch) -> None:
    for name in ("asarray", "array", "stack", "concatenate"):
        patch.setattr(np, name, _strict(getattr(np, name)))
    read = ArrayImpl._value.fget

    def value(self):
        _refuse(self)
        return read(self)

    patch.setattr(ArrayImpl, "_value", property(value))


def _strict(function):
    """A function of numpy that refuses arrays of the device in a guarded step."""

    def strict(values, *args, **more):
        for value in values if isinstance(values, list | tuple) else [values]:
            _refuse(value)
        return function(values, *args, **more)

    return strict
