"""Several processes are one run: equal results, one end, and a resume on any number of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from make_port import free_port

from rlvr_jax import parameters
from rlvr_jax.host.runs import checkpoint, settings

HOSTS = Path(__file__).with_name("hosts.yaml")
PATIENCE = 900.0  # seconds; a machine may be busy
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

    def __init__(self, runs: Path, compiled: Path, config: Path = HOSTS):
        self.runs, self.folder = runs, runs / "hosts"
        self._config, self._compiled = config, compiled
        self._processes: list[subprocess.Popen] = []

    def start(
        self, count: int, *words: str, place=explicit, own=lambda index: (), full: int = -1
    ) -> None:
        """Start the processes; `own` gives further words to each, `full` one with a full disk."""
        self.runs.mkdir(parents=True, exist_ok=True)
        port = free_port()
        common = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
            "JAX_COMPILATION_CACHE_DIR": str(self._compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        base = [sys.executable, "-m", "rlvr_jax.train", "--config", str(self._config)]
        self._processes = []
        for index in range(count):
            env, more = place(index, count, port) if count > 1 else ({}, [])
            command = [*base, f"runs={self.runs}", *more, *words, *own(index)]
            if index == full:  # no file may have more than a kilobyte; a pipe is no file
                script = '(ulimit -f 1; exec "$@") 2>&1 | cat; exit ${PIPESTATUS[0]}'
                command = ["bash", "-c", script, "bash", *command]
            with self.log(index).open("wb") as out:
                started = subprocess.Popen(command, env=common | env, stdout=out, stderr=out)
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


def restored(folder: Path, stage: str) -> dict[str, np.ndarray]:
    """The parameters in the newest checkpoint of a stage."""
    cfg = settings.load(folder / "config.resolved.yaml")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for name, x in parameters.abstract(cfg.model).items()
    }
    return checkpoint.restore_params(folder / "checkpoints" / stage, like)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp() / "compiled"


@pytest.fixture(scope="module")
def only_sft(tmp_path_factory) -> Path:
    """The config without the stages after sft."""
    tree = yaml.safe_load(HOSTS.read_text())
    tree["stages"] = tree["stages"][:2]
    path = tmp_path_factory.mktemp("config") / "sft.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def both(tmp_path_factory, compiled) -> tuple[Job, Job, list[str]]:
    """One process with 8 devices, and two with 4 each: finished, and what the two printed."""
    one, two = (Job(tmp_path_factory.mktemp(name), compiled) for name in ("one", "two"))
    two.start(2)
    one.run(1)
    codes, said = two.wait()
    assert codes == [0, 0], said
    return one, two, said


def test_two_processes_log_what_one_does(both):
    one, two, _ = both
    mine, theirs = one.rows(), two.rows()
    assert [(r["stage"], r["step"]) for r in mine] == [(r["stage"], r["step"]) for r in theirs]
    for row, other in zip(mine, theirs, strict=True):
        assert_rows_close(row, other)
    assert any(row.get("filter/rounds", 0) > 1 for row in mine), "the filter drew no second round"
    assert any(row.get("prm/loss", 0) > 0 for row in mine) and "rule/mean" in mine[-1]


def test_two_processes_write_the_same_samples_in_the_same_order(both):
    one, two, _ = both
    names = sorted(path.name for path in (one.folder / "samples").iterdir())
    assert names == sorted(path.name for path in (two.folder / "samples").iterdir())
    assert {name.split("_")[0] for name in names} == {"fused", "split"}
    for name in names:
        pair = [(job.folder / "samples" / name).read_text().splitlines() for job in (one, two)]
        assert_close(*([json.loads(line) for line in lines] for lines in pair), 1e-5, name)


def test_two_processes_leave_the_same_files(both):
    one, two, _ = both
    patterns = ("verdicts/*", "tokenizer.model")
    mine = files(one.folder, *patterns)
    assert len(mine) == 3 and mine == files(two.folder, *patterns)
    (collected,) = (one.folder / "collected").iterdir()  # its rewards are those of two sums
    pair = [job.folder / "collected" / collected.name for job in (one, two)]
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in pair]
    assert_close(*rows, 1e-5, collected.name)
    results = [json.loads((job.folder / "eval/evaluate.json").read_text()) for job in (one, two)]
    assert_close(*results, 1e-5)
    assert results[0]["samples"] == 2 and "weighted" in results[0] and "verifier" in results[0]
    stages = [sorted(p.name for p in (job.folder / "stages").iterdir()) for job in (one, two)]
    assert stages[0] == stages[1]
    for job in (one, two):
        assert not list(job.folder.glob("**/*.part")) and (job.folder / "report.html").exists()


def test_two_processes_save_the_same_checkpoint(both):
    one, two, _ = both
    for stage in ("sft", "verifier", "fused", "second", "split"):
        mine, theirs = restored(one.folder, stage), restored(two.folder, stage)
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_each_process_prints_one_line_of_facts_and_the_first_one_the_rest(both):
    _, two, said = both
    lines = []
    for index, text in enumerate(said):
        facts = [x for x in two.log(index).read_text().splitlines() if x.startswith('{"process')]
        assert len(facts) == 1
        lines.append(json.loads(facts[0]))
        assert lines[-1]["process"] == index and lines[-1]["processes"] == 2
        assert lines[-1]["devices"] == "4 cpu" and lines[-1]["mesh"] == "2x4x1"
        assert "Traceback" not in text
    assert lines[0] | {"process": 1} == lines[1]
    assert "sft: done in" in said[0] and "sft" not in said[1].partition("}")[2]


def test_a_signal_to_one_stops_all_and_any_number_goes_on(both, compiled, only_sft, tmp_path):
    """SIGTERM on one; then the same bytes, and nearly so on one process."""
    _, two, _ = both
    job = Job(tmp_path / "a", compiled, only_sft)
    job.start(2, place=slurm)
    job.until(2)
    job.send(signal.SIGTERM, 1)
    codes, said = job.wait(120)
    assert codes == [75, 75], said
    assert sum("stopped by SIGTERM; the same command goes on" in text for text in said) == 1
    saved = checkpoint.Checkpoints(job.folder / "checkpoints" / "sft").latest()
    assert saved == len(job.rows("sft"))
    shutil.copytree(job.folder, tmp_path / "saved")
    job.run(2, place=gke)
    assert job.rows("sft") == two.rows("sft"), "a resume gives other bytes"

    shutil.rmtree(job.folder)
    shutil.move(tmp_path / "saved", job.folder)
    said = job.run(1, "mesh.data=1", "mesh.fsdp=8")
    assert "8 cpu device(s)" in said[0] and len(job.rows("sft")) - saved >= 10
    assert_close(job.rows("sft"), two.rows("sft"), 1e-5)


@pytest.mark.slow  # a collective of the CPU may hold the interpreter: then the end takes a minute
@pytest.mark.parametrize("dead", [1, 0])
def test_the_death_of_one_ends_all_and_the_run_goes_on(both, compiled, only_sft, tmp_path, dead):
    _, two, _ = both
    job = Job(tmp_path / "a", compiled, only_sft)
    job.start(2)
    job.until(4)
    job.send(signal.SIGKILL, dead)
    codes, said = job.wait(120)
    assert codes[dead] == -signal.SIGKILL, said
    if codes[1 - dead] == -signal.SIGABRT:  # JAX's own end, after the last sign of life
        assert "another task died" in said[1 - dead]
    else:
        assert codes[1 - dead] == 75 and f"process {dead} of 2 on" in said[1 - dead], said
        assert said[1 - dead].count("is gone without a word") == 1
    job.run(2)
    assert job.rows("sft") == two.rows("sft"), "a resume gives other bytes"


def test_configs_that_differ_are_refused_by_name_from_one_process(compiled, only_sft, tmp_path):
    job = Job(tmp_path, compiled, only_sft)
    job.start(2, own=lambda index: [f"sft.optim.lr=0.0{index + 1}"])
    codes, said = job.wait(120)
    assert codes == [2, 2], said
    told = [text for text in said if "stages.sft.optim.lr is 0.01 in process 0 on" in text]
    assert len(told) == 1 and "and 0.02 in process 1 on" in told[0] and "Traceback" not in told[0]
    assert not job.folder.exists()


@pytest.mark.slow
def test_four_processes(both, compiled, tmp_path):
    one, _, _ = both
    job = Job(tmp_path, compiled)
    job.run(4)
    for row, other in zip(one.rows(), job.rows(), strict=True):
        assert_rows_close(row, other)


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_all_and_tears_nothing(compiled, only_sft, tmp_path):
    """A limit on the size of files stands for the disk; the first checkpoint meets it."""
    job = Job(tmp_path, compiled, only_sft)
    job.start(2, "sft.save_every=4", full=1)
    codes, said = job.wait(120)
    assert codes == [2, 2], said
    assert sum("could not be written" in text for text in said) == 1
    assert checkpoint.Checkpoints(job.folder / "checkpoints" / "sft").latest() is None
    job.run(2, "sft.save_every=4")
