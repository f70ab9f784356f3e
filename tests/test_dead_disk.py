"""A run whose disk dies ends within ten seconds, with a sentence, and the next start goes on."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest
import yaml
from make_disk import Disk
from make_training import Training

SOON = 10.0  # seconds from the fault to the end of the process
PATIENCE = 300.0  # seconds for a start on a busy machine
SIZES = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_size": 4, "vocab": 320}
CONFIG = {
    "name": "tiny",
    "model": SIZES | {"feedforward": 32},
    "data": {
        "tasks": ["sum"],
        "sft": 64,
        "label": 0,
        "train": 0,
        "test": 8,
        "response_columns": 32,
    },
    "stages": [
        {"stage": "tokenizer"},
        {"stage": "sft", "steps": 1_000_000, "batch": 8, "save_every": 1},  # until it is stopped
    ],
}
FULL = ("the disk is full", "No space left on device")
READ_ONLY = ("the disk is read-only", "Read-only file system", "Input/output error")


class Struck:
    """A training on a disk of its own, on which each method lets one fault strike."""

    def __init__(self, training: Training, disk: Disk):
        self.training, self.disk = training, disk
        self.home = training.folder / "checkpoints" / "sft"

    def full(self) -> tuple[str, ...]:
        self.disk.fill()
        return FULL

    def no_inodes(self) -> tuple[str, ...]:
        self.disk.fill_inodes()
        return FULL

    def read_only(self) -> tuple[str, ...]:
        self.disk.fail()
        return READ_ONLY

    def replaced(self) -> tuple[str, ...]:
        """The folder of the checkpoints is a file now."""
        shutil.move(self.home, self.disk.folder / "away")
        self.home.write_text("a file")
        return (f"{self.home}",)

    def mend(self) -> None:
        if (away := self.disk.folder / "away").exists():
            self.home.unlink()
            shutil.move(away, self.home)
        self.disk.empty()
        self.disk.mend()


@pytest.fixture(scope="module")
def struck(tmp_path_factory) -> Iterator[Struck]:
    home = tmp_path_factory.mktemp("dead")
    disk = Disk(home, megabytes=64, inodes=1024)
    config = home / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG | {"runs": str(disk.folder / "runs")}))
    folder, log = disk.folder / "runs" / "tiny", home / "log.txt"
    training = Training(config, folder, log, PATIENCE)
    yield Struck(training, disk)
    disk.close()


QUICK = [("full", 1), ("no_inodes", 0), ("read_only", 2), ("replaced", 0)]
MORE = [("full", 0), ("full", 2), ("read_only", 0), ("read_only", 1), ("replaced", 2)]


@pytest.mark.parametrize(
    ("fault", "signals"), [*QUICK, *(pytest.param(*x, marks=pytest.mark.slow) for x in MORE)]
)
def test_a_dead_disk_ends_the_run_soon(fault, signals, struck):
    """The steps go on where another fault ended them before; SIGTERM comes so many times."""
    training = struck.training
    training.start()
    try:
        begun = max(training.lines("sft"), 1)
        assert training.until(lambda: training.lines("sft") > begun + 3), training.said()
        training.send(signal.SIGSTOP)
        words = getattr(struck, fault)()
        began = time.monotonic()
        if signals:
            os.kill(training.process.pid, signal.SIGTERM)
        training.send(signal.SIGCONT)
        if signals == 2:
            training.until(lambda: "stopping" in training.said())
            os.kill(training.process.pid, signal.SIGTERM)
        code, said = training.wait(SOON)
        seconds = time.monotonic() - began
        print(f"{fault}, {signals} signals: {seconds:.1f} s")
        assert code == 2 or signals == 2 and code == 75, (code, said)
        assert seconds < SOON
        if code == 2:
            assert "error: " in said and any(word in said for word in words), said
    finally:
        training.kill()
        struck.mend()
    lines = (training.folder / "metrics.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["step"] for line in lines] == list(range(1, len(lines) + 1))
