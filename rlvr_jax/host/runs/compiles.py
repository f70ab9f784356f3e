"""What XLA compiles: counted, from JAX's own events, and kept on disk for the next process."""

import os
from pathlib import Path

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Compiles:
    """Compilations since this object was made, by name of the jitted function.

    A program that comes from the disk is counted too: one compile per step function is a promise.
    """

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


def keep() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX has been told where or not to.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(cache) / "rlvr_jax" / "xla"))
