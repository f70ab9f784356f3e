"""The memory group of a killed process goes with the next start, that of a live one stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_jax.host.workers import memory_group

OWNER = """
import time
from rlvr_jax.host.workers import memory_group
with memory_group.make_group("test", 1 << 20) as group:
    print(group, flush=True)
    time.sleep(100)
"""


def start() -> tuple[subprocess.Popen, Path]:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", OWNER]
    owner = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
    said = owner.stdout.readline().strip()
    if said == "None":
        owner.kill()
        owner.wait()
        pytest.skip("no cgroups here")
    return owner, Path(said)


def test_the_next_start_removes_the_group_of_a_killed_process():
    dead, left = start()
    alive, used = start()
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert left.is_dir() and used.is_dir()
        assert memory_group.clean() >= 1  # a test beside this one may leave some too
        assert not left.exists() and used.is_dir()
    finally:
        alive.kill()
        alive.wait()
    memory_group.clean()
    assert not used.exists()
