"""One run of every kind of stage, through kills, signals and failures: it ends as a quiet one.

`RLVR_CHAOS_SEED` chooses the order of the faults and their moments.
"""

import contextlib
import hashlib
import http.server
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import yaml
from make_disk import Disk
from make_training import Training

pytestmark = pytest.mark.chaos
CONFIG, RULE = (Path(__file__).with_name(name) for name in ("chaos.yaml", "make_chaos_grades.py"))
PATIENCE = 1800.0  # seconds; a run that does not end fails the test, on a busy machine too
SOON = 10.0  # seconds in which a run ends when it cannot write, and what a busy machine adds: BUSY
BUSY = 20.0
FULL = ("full", "No space left")
READ_ONLY = ("read-only", "Read-only file system", "Input/output error", "I/O error")
SEED = int(os.environ.get("RLVR_CHAOS_SEED", 0))


class Handler(http.server.BaseHTTPRequestHandler):
    """An endpoint whose reply depends on the request alone, while it is up."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.left -= 1
        if self.server.left < 0:
            self.send_response(503)
            self.end_headers()
            return
        number = zlib.crc32(said)
        text = ("YES", "NO")[number % 2]
        if b'"critic"' in said:
            scores = ("3, 8", "8, 3", "1", "2")[number % 4]
            text = f"Analysis: fine\nScores: \\boxed{{{scores}}}"
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.left = sys.maxsize  # replies until it is down
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class Run(Training):
    """A training on the config, in a folder of its own."""

    def __init__(self, home: Path, runs: Path, port: int):
        tree = yaml.safe_load(CONFIG.read_text().replace("rule: RULE", "rule: " + str(RULE)))
        for stage in tree["stages"]:
            for asked in ("judge", "endpoint"):
                if stage.get(asked, {}).get("kind") == "endpoint":
                    stage[asked]["url"] = f"http://127.0.0.1:{port}/v1"
        self.stages = [stage.get("name", stage["stage"]) for stage in tree["stages"]]
        config = home / "config.yaml"
        config.write_text(yaml.safe_dump(tree | {"runs": str(runs)}))
        super().__init__(config, runs / "chaos", home / "log.txt", PATIENCE)

    def marked(self, stage: str) -> bool:
        return (self.folder / "stages" / f"{stage}.json").exists()

    def seconds(self, stage: str) -> float:
        marker = json.loads((self.folder / "stages" / f"{stage}.json").read_text())
        return marker["seconds"]

    def stage(self) -> str:
        """The first stage that is not finished, "" after the last."""
        return next((stage for stage in self.stages if not self.marked(stage)), "")

    def inside(self, stage: str) -> bool:
        """Whether this process has come to the stage."""
        number = self.stages.index(stage)
        if not number:
            return (self.folder / "data").exists()
        said, before = self.said(), self.stages[number - 1]
        return any(f" {before}: {end}" in said for end in ("done in", "finished earlier"))

    def files(self) -> frozenset[str]:
        """The names of all files and folders: what changes there is a moment to strike."""
        return frozenset(str(path) for path in self.folder.rglob("*"))

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [int(word) for path in children for word in path.read_text().split()]


class Strike(NamedTuple):
    """A Strike is where a fault struck: a stage that ran, after so many lines of its metrics."""

    kind: str
    stage: str
    lines: int


class Faults:
    """Each method starts the run, waits for a moment of a stage, strikes, and sees how it ends."""

    def __init__(self, run: Run, quiet: Run, disk: Disk, server, seed: int):
        self.run, self.disk, self.server, self.draw = run, disk, server, random.Random(seed)
        self.seconds = {name: quiet.seconds(name) for name in quiet.stages}
        self.strikes: list[Strike] = []
        self.slowest = 0.0  # seconds from a dead disk to the end of the process

    @contextlib.contextmanager
    def at(self, stage: str, kind: str) -> Iterator[None]:
        """Stop the process at a random moment of the stage for the block, then let it go on.

        The moment is one after so many changes of files, or after a part of the time that the
        stage took in the quiet run.
        """
        run, wanted = self.run, self.draw.randint(1, 8)
        latest = self.draw.uniform(0, 0.25) * self.seconds[stage]  # nothing is left to compile
        known, changes = run.files() if run.folder.exists() else frozenset(), 0
        run.start()
        run.until(lambda: run.inside(stage))
        began = time.monotonic()

        def enough() -> bool:
            nonlocal known, changes
            now = run.files()
            changes += len(now ^ known)
            known = now
            return changes >= wanted or time.monotonic() - began > latest or run.marked(stage)

        run.until(enough)
        run.send(signal.SIGSTOP)
        if (now := run.stage()) and run.process.poll() is None and run.inside(now):
            self.strikes.append(Strike(kind, now, run.lines(now)))
        yield
        run.send(signal.SIGCONT)

    def kill(self, stage: str) -> None:
        with self.at(stage, "kill"):
            self.run.kill()

    def terminate(self, stage: str) -> None:
        self.signal(stage, signal.SIGTERM, 0, 75)

    def interrupt(self, stage: str) -> None:
        self.signal(stage, signal.SIGINT, 0, 130)

    def signal(self, stage: str, signum: int, *codes: int) -> None:
        with self.at(stage, signal.Signals(signum).name):
            self.run.send(signum)
        code, said = self.run.wait()
        assert code in codes and "Traceback" not in said, (code, said)

    def full_disk(self, stage: str) -> None:
        with self.at(stage, "full disk"):
            self.disk.fill(self.draw.choice([0, 4096, 40_000]))
        self.dies(FULL)
        self.disk.empty()

    def no_inodes(self, stage: str) -> None:
        with self.at(stage, "no inodes"):
            self.disk.fill_inodes(self.draw.choice([0, 1, 7]))
        self.dies(FULL)
        self.disk.empty()

    def read_only(self, stage: str) -> None:
        with self.at(stage, "read-only"):
            self.disk.fail()
        self.dies(READ_ONLY)
        self.disk.mend()

    def dies(self, words: Sequence[str]) -> None:
        """See the process end soon."""
        began = time.monotonic()
        self.refused(*self.run.wait(SOON + BUSY), *words)
        self.slowest = max(self.slowest, time.monotonic() - began)

    def dead_worker(self, stage: str) -> None:
        """Somebody kills the workers that grade, again and again; the run goes on."""
        with self.at(stage, "dead worker"):
            pass
        end = time.monotonic() + 5
        alive = lambda: self.run.process.poll() is None and not self.run.marked(stage)  # noqa: E731
        while alive() and time.monotonic() < end:
            for process in self.run.workers():
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                pause = time.monotonic() + 1.5
                while alive() and time.monotonic() < pause:
                    time.sleep(0.01)
            time.sleep(0.01)
        self.run.kill()

    def down(self, stage: str) -> None:
        """The endpoint goes down after some replies."""
        self.server.left = self.draw.randint(0, 3)
        self.run.start()
        code, said = self.run.wait()
        self.server.left = sys.maxsize
        self.strikes.append(Strike("down", self.run.stage(), 0))
        assert code == 2 and ("requests in a row" in said or "503" in said), (code, said)

    def refused(self, code: int, said: str, *words: str) -> None:
        assert code == 2 or code == 0 and self.run.marked(self.run.stages[-1]), (code, said)
        assert code == 0 or any(word in said for word in words), said


def lasting(folder: Path) -> dict[str, object]:
    """Everything in a run folder that faults must not change."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "perf/")
    kept = [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
    out: dict[str, object] = {"metrics": [json.dumps(row) for row in kept]}
    for name in ("samples", "eval", "verdicts", "judgements", "collected", "items"):
        out |= {f"{name}/{path.name}": path.read_bytes() for path in (folder / name).glob("*.*")}
    out["tokenizer"] = (folder / "tokenizer.model").read_bytes()
    return out


def learned(folder: Path) -> dict[str, str]:
    """A digest of every array that every stage left: weights, moments, counters and random keys."""
    out = {}
    for home in sorted((folder / "checkpoints").iterdir()):
        newest = max(home.glob("step_*"))
        arrays = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(newest / "state")
        for name, array in arrays.items():
            if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                array = jax.random.key_data(array)
            data = np.ascontiguousarray(array).tobytes()
            out[f"{home.name} {newest.name} {name}"] = hashlib.sha256(data).hexdigest()
    return out


def exported(run: Run, home: Path) -> dict[str, bytes]:
    """The weights of one stage of each kind of model, as `convert` writes them."""
    out = {}
    for stage in ("ruled", "verifier", "grm"):
        source, target = f"{run.folder}:{stage}", home / stage
        words = [sys.executable, "-m", "rlvr_jax.convert", source, str(target)]
        subprocess.run(words, check=True, capture_output=True, env=run.environment)
        out |= {f"{stage}/{path.name}": path.read_bytes() for path in target.iterdir()}
    return out


def audit(run: Run, path: Path) -> object:
    """What an audit finds, without its times."""
    words = [sys.executable, "-m", "rlvr_jax.audit", "--config", str(run.config)]
    words += ["--stage", "rl", "--json", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, env=run.environment)
    assert "Traceback" not in done.stderr, done.stderr
    return untimed(json.loads(path.read_text()))


def untimed(tree: object) -> object:
    if isinstance(tree, list):
        return [untimed(x) for x in tree]
    if not isinstance(tree, dict):
        return tree
    return {k: untimed(v) for k, v in tree.items() if k not in TIMES}


TIMES = ("seconds", "ms_per_item", "slowest")


# Each stage meets two of these; stages that ask an endpoint or grade by a rule meet theirs too.
EVERYWHERE = ["kill", "terminate", "interrupt", "full_disk", "no_inodes", "read_only"]
ENDPOINTS, RULED = ["label", "rft"], ["explore", "own", "ruled", "after"]


def plan(stages: list[str], seed: int) -> list[tuple[str, str]]:
    """(stage, fault) in the order in which they come."""
    draw, faults = random.Random(seed), []
    kinds = itertools.chain.from_iterable(
        draw.sample(EVERYWHERE, len(EVERYWHERE)) for _ in itertools.count()
    )
    for stage in stages:
        mine = ["down"] * (stage in ENDPOINTS) + ["dead_worker"] * (stage in RULED)
        faults += [(stage, kind) for kind in [*mine, next(kinds)]]
    return faults


def assert_spread(strikes: list[Strike], stages: list[str], planned: int) -> None:
    """Faults have to strike while stages run, and not always at the same point of one."""
    struck = {strike.stage for strike in strikes}
    kinds = {strike.kind for strike in strikes}
    print(f"{len(strikes)} of {planned} faults, of {len(kinds)} kinds, in {len(struck)} stages")
    assert len(strikes) >= planned / 2 and len(struck) >= len(stages) / 2, strikes
    assert len(kinds) == len(EVERYWHERE) + 2, kinds
    assert any(strike.lines for strike in strikes), "some strike between steps"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory, server) -> Run:
    home = tmp_path_factory.mktemp("quiet")
    run = Run(home, home, server.server_port)
    run.start()
    code, said = run.wait()
    assert code == 0, said
    return run


def test_faults_in_every_stage_change_nothing(quiet, server, tmp_path, tmp_path_factory):
    disk = Disk(tmp_path)
    run = Run(tmp_path, disk.folder / "runs", server.server_port)
    faults = Faults(run, quiet, disk, server, SEED)
    try:
        planned = plan(run.stages, SEED)
        for stage, kind in planned:
            if run.marked(stage):  # the last fault struck late
                continue
            began, before = time.monotonic(), len(faults.strikes)
            getattr(faults, kind)(stage)
            where = faults.strikes[before:] or "none"
            print(f"{where} {time.monotonic() - began:.0f} s", flush=True)
        print(f"the slowest end of a process with a dead disk took {faults.slowest:.1f} s")
        assert_spread(faults.strikes, run.stages, len(planned))
        run.start()
        code, said = run.wait()
        assert code == 0, said
        found, wanted = lasting(run.folder), lasting(quiet.folder)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if found[name] != wanted[name]] == []
        mine, quietly = learned(run.folder), learned(quiet.folder)
        assert mine.keys() == quietly.keys() and len(mine) > 100
        assert [name for name in quietly if mine[name] != quietly[name]] == []
        assert exported(run, tmp_path / "a") == exported(quiet, tmp_path / "b")
        assert audit(run, tmp_path / "a.json") == audit(quiet, tmp_path / "b.json")
        left = [path for path in run.folder.rglob("*") if path.name.endswith(".part")]
        assert not left and not list(run.folder.rglob("*orbax-checkpoint-tmp*"))
    finally:
        run.kill()
        disk.close()
