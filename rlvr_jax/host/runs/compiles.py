"""This module counts XLA compilations, and enables the on-disk cache of compiled programs."""

import os
from pathlib import Path

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


class Compiles:
    """A `Compiles` object counts the compilations since it was made, by jitted function.

    It listens to JAX's monitoring events. A program from the on-disk cache counts as a compilation
    too, because the count has to show that each step function has one program.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._names: list[str] = []
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def count(self, function: str) -> int:
        """Return how often a jitted function of this name has been compiled."""
        return self._names.count(f"jit({function})")

    def _note(self, event: str, duration_secs: float, **details: str | int) -> None:
        if event == EVENT:
            self.seconds += duration_secs
            self._names.append(str(details.get("fun_name")))


def enable_disk_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX is configured otherwise.

    JAX_COMPILATION_CACHE_DIR names another folder; JAX_ENABLE_COMPILATION_CACHE=false turns the
    cache off.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(cache) / "rlvr_jax" / "xla"))
