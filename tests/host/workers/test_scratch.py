"""Rubbish of killed processes goes with the next start; what lives and what is not ours stays."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rlvr_jax.host.workers import scratch

OWNER = """
import sys, time
from rlvr_jax.host.workers import scratch
folder = scratch.make_folder("worker_")
(folder / "file").write_text("x")
(folder / "closed").mkdir(mode=0)
print(folder, flush=True)
if sys.argv[1] == "wait":
    time.sleep(100)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder for temporary files of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(place, how):
    env = os.environ | {"TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OWNER, how]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    return owner, Path(owner.stdout.readline().strip())


def test_the_next_start_removes_what_a_killed_process_left_and_nothing_of_a_live_one(place):
    (dead, left), (alive, used) = start(place, "wait"), start(place, "wait")
    try:
        assert left.parent != used.parent and left.parent.parent == place
        assert scratch.clean() == 0 and (left / "file").exists()
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert (left / "file").exists()
        assert scratch.clean() == 1
        assert not left.parent.exists() and (used / "file").exists()
    finally:
        alive.kill()
        alive.wait()
    assert scratch.clean() == 1
    assert list(place.iterdir()) == []


def test_a_process_that_ends_leaves_nothing(place):
    owner, folder = start(place, "end")
    assert owner.wait() == 0 and not folder.parent.exists()


def test_own_folders_and_those_of_others_stay(place):
    mine = scratch.make_folder("a_")
    other = place / "rlvr_jax_home_elsewhere"
    (place / "data").mkdir()
    (place / "data" / "thesis").write_text("mine")
    other.symlink_to(place / "data")
    (place / "rlvr_jax_home_file").write_text("a file, no folder")
    (place / "somebody").mkdir()
    assert scratch.clean() == 0
    assert mine.exists() and (place / "data" / "thesis").exists() and (place / "somebody").exists()
    assert other.is_symlink() and (place / "rlvr_jax_home_file").exists()


def test_a_fork_has_a_home_of_its_own_and_leaves_that_of_its_parent(place):
    mine = scratch.make_folder("a_")
    child = os.fork()
    if not child:
        other = scratch.make_folder("b_")
        os._exit(0 if other.parent != mine.parent else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert mine.exists()
