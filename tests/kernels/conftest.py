"""Stand-ins for devices that this machine does not have; they are enough to trace and lower."""

from contextlib import contextmanager

import jax
import pytest

KINDS = {
    "tpu": ("TPU v5 lite", 1),
    "cuda": ("NVIDIA H100 80GB HBM3", None),
    "rocm": ("AMD Instinct MI300X", None),
}


@pytest.fixture
def pretend():
    """pretend(platform), or pretend(platform, kind, cores): the ambient mesh's abstract device."""

    @contextmanager
    def ambient(platform, kind=None, cores=None):
        if kind is None:
            kind, cores = KINDS[platform]
        device = jax.sharding.AbstractDevice(device_kind=kind, num_cores=cores, platform=platform)
        mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
        with jax.sharding.use_abstract_mesh(mesh):
            yield

    return ambient
