"""Counts what XLA compiles, from JAX's own events: one compile per step function is a promise."""

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Compiles:
    """Compilations since this object was made, by name of the jitted function."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._names: list[str] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def count(self, function: str) -> int:
        """How often a function of this name has been compiled."""
        return self._names.count(f"jit({function})")

    def _note(self, event: str, duration_secs: float, **details: str | int) -> None:
        if event == EVENT:
            self.seconds += duration_secs
            self._names.append(str(details.get("fun_name")))
