"""Reinforcement learning with verifiable rewards in JAX.

    import rlvr_jax
    run = rlvr_jax.train("configs/debug.yaml", "name=first")

docs/api.md lists what is for use from Python.
"""

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `rlvr_jax.train` where it is first used: it needs all of jax, which takes seconds."""
    if name == "train":
        return importlib.import_module("rlvr_jax.train")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
