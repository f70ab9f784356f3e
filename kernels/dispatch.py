"""The choice among the implementations of an op: by name, or by platform.

The platform is that of the ambient mesh (`jax.set_mesh`) while JAX traces the caller.
"""

from collections.abc import Callable, Mapping

import jax


def platform() -> str:
    """Return "cpu", "gpu" or "tpu".

    The abstract device of the ambient mesh decides if there is one, else JAX's default backend.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def earned(default: Mapping[str, str], fits: bool = True) -> str:
    """Return the name in `default` (platform -> name) of the implementation to take unasked.

    It is "xla" for a platform without one, and where the arrays are not such that the platform's
    implementation has earned its place for (`fits`).
    """
    return default.get(platform(), "xla") if fits else "xla"


def choose_implementation(
    impl: str | None, table: Mapping[str, Callable], default: Mapping[str, str]
) -> Callable:
    """Return the implementation called `impl` from the table (name -> function).

    None means the platform's default (platform -> name), or "xla" for a platform without one.

    Raises:
      ValueError: the table has no such name; the message lists the names.
    """
    name = earned(default) if impl is None else impl
    if name not in table:
        raise ValueError(f"no implementation {name!r}; there are {', '.join(sorted(table))}")
    return table[name]
