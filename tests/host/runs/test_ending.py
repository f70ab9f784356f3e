"""A signal ends a process within its budget, a second one at once, and no thread keeps it."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

HANGS = """
import hashlib, os, sys, threading
from rlvr_jax.host.runs.ending import Signals
Signals(float(sys.argv[1])).catch()
print("on", flush=True)
if sys.argv[2] == "reader":  # of standard output, who reads no more
    os.write(1, bytes(1 << 22))
if sys.argv[2] == "disk":
    threading.Event().wait()  # one that does not answer
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # as a compiler, which runs no handler meanwhile
"""
WAITS = """
import atexit, sys, threading
from rlvr_jax.host.runs.ending import end_process
atexit.register(print, "cleaned")
if sys.argv[2] == "thread":
    threading.Thread(target=threading.Event().wait).start()
sys.stdout.write("on ")
end_process(int(sys.argv[1]))
"""
ORBAX = """
import shutil, sys
from pathlib import Path
import jax.numpy as jnp
from rlvr_jax.host.runs.checkpoint import CheckpointError, Checkpoints
from rlvr_jax.host.runs.ending import end_process
folder = Path(sys.argv[1]) / "rl"
try:
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(3.0)}, {})
        checkpoints.wait()
        shutil.rmtree(folder)
        folder.write_text("a file")
        checkpoints.save(2, {"x": jnp.arange(3.0)}, {})
except CheckpointError as error:
    print(error)
    end_process(2)
"""


@contextlib.contextmanager
def start(script, *args):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script, *args]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("where", ["disk", "compiler"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_hangs_ends_with_its_budget(signum, where):
    with start(HANGS, "0.5", where) as process:
        assert process.stdout.readline() == "on\n"
        time.sleep(0.2)  # until it hangs
        process.send_signal(signum)
        out, err = process.communicate(timeout=10)
    assert process.returncode == (75 if signum == signal.SIGTERM else 130)
    assert "stopping: saving" in out and "was not saved in time" in err and "Trace" not in err


@pytest.mark.parametrize("where", ["disk", "compiler"])
def test_a_second_signal_ends_it_at_once(where):
    with start(HANGS, "900", where) as process:
        assert process.stdout.readline() == "on\n"
        time.sleep(0.2)  # until it hangs
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("stopping")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130 and time.monotonic() - began < 5


def test_a_second_signal_ends_it_where_nobody_reads_what_it_says():
    with start(HANGS, "900", "reader") as process:
        assert process.stdout.readline() == "on\n"
        time.sleep(0.2)  # until the pipe is full
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
            time.sleep(1.2)  # two within a second are one
        assert process.wait(timeout=10) == 75


def test_a_signal_that_comes_twice_at_one_moment_is_one():
    """`timeout` sends it to the process and to its group."""
    with start(HANGS, "900", "disk") as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline().startswith("stopping")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        time.sleep(0.8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 75


@pytest.mark.parametrize(("code", "what"), [("2", "thread"), ("2", ""), ("0", "")])
def test_no_thread_keeps_a_process_that_failed(code, what):
    with start(WAITS, code, what) as process:
        assert process.communicate(timeout=10) == ("on cleaned\n", "")
    assert process.returncode == int(code)


ENDS = """
import atexit, os, signal
from rlvr_jax.host.runs.ending import end_process
signal.signal(signal.SIGTERM, signal.SIG_DFL)
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
end_process(2)
"""


def test_a_signal_at_the_end_of_a_failed_process_leaves_its_exit_code():
    with start(ENDS) as process:
        process.communicate(timeout=10)
    assert process.returncode == 2


def test_a_failed_write_of_orbax_keeps_no_process(tmp_path):
    """Its threads wait for 20 minutes for a signal that the failed write does not send."""
    with start(ORBAX, str(tmp_path)) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 2, err
    assert "checkpoint of step 2 could not be written" in out


TIMED = """
import sys, threading
from rlvr_jax.host.runs import ending
signals = ending.Signals(minutes=float(sys.argv[1]))
signals.catch()
while signals.seen is None:
    threading.Event().wait(0.01)
sys.stdout.write(f"{signals.seen == ending.TIME_UP}\\n")  # one write: another thread tells too
sys.stdout.flush()
sys.stdin.readline()
print("saved")
"""


def test_the_end_of_the_time_asks_once_and_a_signal_after_it_does_not_end_the_save():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", TIMED, "0.005"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        said = sorted(process.stdout.readline() for _ in range(2))  # by two threads
        assert said[0] == "True\n" and said[1].startswith("stopping: saving")
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        out, _ = process.communicate("go on\n", timeout=20)
    assert out == "saved\n" and process.returncode == 0


def test_two_signals_after_the_end_of_the_time_end_it_at_once():
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", TIMED, "0.005"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) as process:
        said = sorted(process.stdout.readline() for _ in range(2))  # by two threads
        assert said[0] == "True\n" and said[1].startswith("stopping: saving")
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)  # two of a kind within a second are one
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 75
