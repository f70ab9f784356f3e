"""Jobs of several processes on this machine, for tests: how they start, and what they leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import make_command
import numpy as np
import pytest
import yaml
from make_port import free_port

from rlvr_jax import parameters
from rlvr_jax.host.runs import checkpoint, settings

PATIENCE = 900.0  # seconds; a machine may be busy
TWO_WIDTHS = 40  # columns of the narrower one; the processes have to agree on the width of a part
# Sums over devices are added in another order, which shows most in a ratio of small numbers.
NEAR, RATIOS = 2e-6, {"advantage/correlation": 2e-5}


def explicit(index: int, count: int, port: int) -> tuple[dict[str, str], list[str]]:
    words = [f"processes.coordinator=127.0.0.1:{port}", f"processes.count={count}"]
    return {}, [*words, f"processes.index={index}"]


def slurm(index: int, count: int, port: int) -> tuple[dict[str, str], list[str]]:
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": "0",
        "JAX_COORDINATOR_PORT": str(port),
    }, []


def gke(index: int, count: int, port: int) -> tuple[dict[str, str], list[str]]:
    """A TPU slice of Google Kubernetes Engine, on a machine that has no TPU."""
    return {
        "TPU_WORKER_HOSTNAMES": ",".join(["127.0.0.1"] * count),
        "TPU_WORKER_ID": str(index),
        "MEGASCALE_COORDINATOR_ADDRESS": "",
        "MEGASCALE_NUM_SLICES": "",
        "MEGASCALE_SLICE_ID": "",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LIBRARY_PATH": sys.executable,  # any file: nothing opens it on a CPU
        "JAX_FORCE_TPU_INIT": "1",
        "JAX_COORDINATOR_PORT": str(port),
    }, []


class Job:
    """The processes of one run, each with a file of what it prints."""

    def __init__(self, runs: Path, config: Path):
        self.runs, self.folder = runs, runs / "hosts"
        self._config = config
        self._processes: list[subprocess.Popen] = []

    def start(
        self,
        count: int,
        *words: str,
        place=explicit,
        own=lambda index: (),
        at=lambda index: None,
        full: int = -1,
    ) -> None:
        """Start the processes.

        `own` gives further words to each, and `at` its working directory; the disk of `full` is
        full.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        common = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
        }
        base = [*make_command.train(TWO_WIDTHS), "--config", str(self._config)]
        self._processes = []
        for index in range(count):
            env, more = place(index, count, port) if count > 1 else ({}, [])
            command = [*base, f"runs={self.runs}", *more, *words, *own(index)]
            if index == full:  # no file may have more than a kilobyte; a pipe is no file
                script = '(ulimit -f 1; exec "$@") 2>&1 | cat; exit ${PIPESTATUS[0]}'
                command = ["bash", "-c", script, "bash", *command]
            with self.log(index).open("wb") as out:
                started = subprocess.Popen(
                    command, env=common | env, stdout=out, stderr=out, cwd=at(index)
                )
                self._processes.append(started)

    def log(self, index: int) -> Path:
        return self.runs / f"log.{index}"

    def wait(self, seconds: float = PATIENCE) -> tuple[list[int], list[str]]:
        """Exit codes, and what each process printed, as one line."""
        end = time.monotonic() + seconds
        try:
            codes = [p.wait(max(0.1, end - time.monotonic())) for p in self._processes]
        finally:
            self.kill()
        said = [self.log(i).read_text(errors="replace") for i in range(len(codes))]
        return codes, [" ".join(text.split()) for text in said]

    def run(self, count: int, *words: str, **options) -> list[str]:
        self.start(count, *words, **options)
        codes, said = self.wait()
        assert codes == [0] * count, said
        return said

    def send(self, signum: int, index: int) -> None:
        self._processes[index].send_signal(signum)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def rows(self, stage: str = "") -> list[dict]:
        """The metrics of a stage, without those of time."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines(True) if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
        kept = [row for row in rows if stage in ("", row["stage"])]
        return [
            {k: v for k, v in row.items() if not k.startswith(("time/", "perf/"))} for row in kept
        ]

    def until(self, lines: int) -> None:
        """Wait until the sft stage has this many lines."""
        end = time.monotonic() + PATIENCE
        while len(self.rows("sft")) < lines:
            assert time.monotonic() < end and all(p.poll() is None for p in self._processes), [
                self.log(i).read_text() for i in range(len(self._processes))
            ]
            time.sleep(0.02)


def run_beside(one: Job, two: Job, *words: str) -> list[str]:
    """Run one process and, at the same time, two; return what the two printed."""
    two.start(2, *words)
    one.run(1, *words)
    codes, said = two.wait()
    assert codes == [0, 0], said
    return said


def write(path: Path, tree: dict) -> Path:
    """Write a config."""
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found)}


def assert_close(one, other, tolerance: float, where: str = "") -> None:
    """Two JSON values with numbers as near as that, relative to 1 or to their size."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            # Of these, samples keep four digits: 1.000 and 1.001 may be the same number.
            near = 1.1e-3 if key in ("piece_values", "token_values", "parts") else tolerance
            assert_close(one[key], other[key], near, f"{where}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_close(*pair, tolerance, f"{where}/{i}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance), where
    else:
        assert one == other, where


def assert_rows_close(row: dict, other: dict) -> None:
    where = f"{row['stage']} {row['step']}"
    assert list(row) == list(other), where
    for key in row:
        assert_close(row[key], other[key], RATIOS.get(key, NEAR), f"{where} {key}")


def assert_same_steps(mine: list[dict], theirs: list[dict]) -> None:
    """The metrics of two runs are of the same steps and alike."""
    assert [(r["stage"], r["step"]) for r in mine] == [(r["stage"], r["step"]) for r in theirs]
    for row, other in zip(mine, theirs, strict=True):
        assert_rows_close(row, other)


def restored(folder: Path, stage: str) -> dict[str, np.ndarray]:
    """What a stage has learned, from its newest checkpoint."""
    cfg = settings.load(folder / "config.resolved.yaml", sizes=None)
    learns = next(x for x in cfg.stages if x.name == stage)
    found = parameters.abstract_learned(
        getattr(cfg, learns.trains), value_head="scalar" in learns.leaves
    )
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place) for name, x in found.items()
    }
    return checkpoint.restore_params(folder / "checkpoints" / stage, like)


def assert_same_samples(one: Path, two: Path) -> set[str]:
    """The samples of two runs are alike; return the stages that have some."""
    names = sorted(path.name for path in (one / "samples").iterdir())
    assert names == sorted(path.name for path in (two / "samples").iterdir())
    for name in names:
        pair = [(folder / "samples" / name).read_text().splitlines() for folder in (one, two)]
        assert_close(*([json.loads(line) for line in lines] for lines in pair), 1e-5, name)
    return {name.split("_")[0] for name in names}


def assert_same_rows(one: Path, two: Path, kind: str) -> None:
    """The JSON lines in a folder of two runs are alike."""
    pair = [sorted((folder / kind).iterdir()) for folder in (one, two)]
    assert pair[0] and [x.name for x in pair[0]] == [x.name for x in pair[1]]
    for paths in zip(*pair, strict=True):
        rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]
        assert_close(*rows, 1e-5, paths[0].name)


def assert_same_learned(one: Path, two: Path, *stages: str) -> None:
    for stage in stages:
        mine, theirs = restored(one, stage), restored(two, stage)
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5)
