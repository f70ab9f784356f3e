"""Which implementation of an op runs: a name, or the platform of the ambient mesh at trace time."""

from collections.abc import Callable, Mapping

import jax


def platform() -> str:
    """ "cpu", "gpu" or "tpu": of the ambient mesh's abstract device if any, else the backend."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def choose(impl: str | None, table: Mapping[str, Callable], default: Mapping[str, str]) -> Callable:
    """The implementation of that name; for None the platform's default, "xla" where it has none."""
    name = default.get(platform(), "xla") if impl is None else impl
    if name not in table:
        raise ValueError(f"no implementation {name!r}; there are {', '.join(sorted(table))}")
    return table[name]
