"""One run folder, one process: who holds it is said, and death lets go of it."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from rlvr_jax import report
from rlvr_jax.config import Config, SftStage
from rlvr_jax.host.runs import lock as locks
from rlvr_jax.host.runs.folder import Run, RunError

HOLDER = """
import sys, time
from pathlib import Path
from rlvr_jax.host.runs.lock import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path/demo."""
    (tmp_path / "demo").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "demo")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def config(tmp_path, **changes):
    return Config(**{"name": "demo", "runs": str(tmp_path), "stages": (SftStage(),)} | changes)


def test_a_second_process_is_refused_with_who_holds_it_until_that_dies(holder, tmp_path):
    with pytest.raises(RunError) as error:
        Run(config(tmp_path))
    said = str(error.value)
    assert (
        f"{tmp_path / 'demo'} is in use by process {holder.pid} on {socket.gethostname()}" in said
    )
    assert "wait for it or stop it" in said
    assert [p.name for p in (tmp_path / "demo").iterdir()] == ["run.lock"], "nothing was written"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    run = Run(config(tmp_path))
    assert json.loads((run.folder / "run.lock").read_text())["process"] == os.getpid()
    run.close()
    assert (run.folder / "run.lock").read_bytes() == b""


def test_readers_are_not_hindered_and_write_nothing(holder, tmp_path):
    folder = tmp_path / "demo"
    other = Run(config(tmp_path, name="other"))
    other.close()
    text = other.config_file.read_text().replace("name: other", "name: demo")
    (folder / "config.resolved.yaml").write_text(text)
    half = folder / "eval.json.part"
    half.write_text("it is writing")
    run = Run(config(tmp_path), reads=True)
    assert f"process {holder.pid}" in run.others and half.exists()
    with pytest.raises(RunError, match="wait for it"):
        run.refuse_reader()
    with pytest.raises(RunError, match="with another config: seed is 0 there and 3 here"):
        Run(config(tmp_path, seed=3), reads=True)
    assert report.main([str(folder)]) == 0
    run.close()


def test_a_reader_of_a_free_folder_leaves_it_to_the_next(tmp_path):
    reader = Run(config(tmp_path), reads=True)
    assert reader.others == ""
    reader.unlock()
    Run(config(tmp_path)).close()
    reader.close()


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    first = Run(config(tmp_path))
    (first.folder / "eval").mkdir()
    for name in ("eval/after.json.part", "tokenizer.part", "report.html.part"):
        (first.folder / name).write_text("half")
    (first.folder / "eval" / "before.json").write_text("{}")
    first.close()
    Run(config(tmp_path)).close()
    left = sorted(p.name for p in first.folder.rglob("*") if p.is_file())
    assert left == ["before.json", "config.resolved.yaml", "metrics.jsonl", "run.lock"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\xff", "[" * 5000])
def test_a_holder_that_says_nothing_is_refused_all_the_same(holder, tmp_path, content):
    (tmp_path / "demo" / "run.lock").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunError, match="is in use by another process"):
        Run(config(tmp_path))


def test_a_file_system_without_locks_is_said_and_works(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run = Run(config(tmp_path))
    assert not locks.Lock(run.folder).held
    assert "cannot be locked" in capsys.readouterr().err
    run.close()
