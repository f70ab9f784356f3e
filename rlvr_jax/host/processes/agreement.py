"""All processes of a run must have one config, one code, one set of packages and equal devices."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path

from rlvr_jax.host.processes.team import Team, TeamError

PACKAGES = ("jax", "jaxlib", "optax", "orbax-checkpoint", "numpy")


def check_facts(team: Team, at: str, facts: Mapping[str, str]) -> None:
    """Refuse processes whose facts differ, in every process.

    Raises:
      TeamError: the message names the fact, the processes and their hosts.
    """
    others = team.gather(at, [platform.node(), dict(facts)])
    mine_host, mine = others[0]
    for index, (host, theirs) in enumerate(others):
        for name in [*mine, *theirs]:
            if mine.get(name) != theirs.get(name):
                raise TeamError(
                    f"{name} is {mine.get(name, 'absent')} in process 0 on {mine_host} and "
                    f"{theirs.get(name, 'absent')} in process {index} on {host}: start all "
                    "processes with the same"
                )


def read_versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that compute, and the hash of our code."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found, "code": hash_code()}


@functools.cache
def hash_code() -> str:
    """Compute a hash of the source of this program: names and contents of its modules."""
    total = hashlib.sha256()
    for package in ("rlvr_jax", "rlvr_kernels"):
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec else None
        for folder in map(Path, folders or ()):
            for path in sorted(folder.rglob("*.py")):
                total.update(f"{package}/{path.relative_to(folder)}\0".encode())
                total.update(path.read_bytes())
    return total.hexdigest()[:16]


def hash_facts(facts: Mapping[str, str]) -> str:
    """Compute a short hash of facts, in which equal processes agree."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:16]
