"""A run that is killed, interrupted or repeated ends exactly as if nothing had happened."""

import json
import os
import queue
import random
import shutil
import signal
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from make_training import Training

from rlvr_jax import parameters
from rlvr_jax.host.runs import checkpoint, settings
from rlvr_jax.host.runs.folder import Run

DEBUG = Path(__file__).parents[1] / "configs" / "debug.yaml"
# More steps than configs/debug.yaml in rl, and a checkpoint every other one.
SIZES = ["sft.save_every=7", "verifier.save_every=7", "rl.steps=14", "rl.save_every=2"]
SIZES += ["sft.steps=25", "verifier.steps=12"]
SIZES += ["rl.sample_every=3"]
# Everything that a state can hold: value head, PRM, waiting problems, a KL coefficient that adapts,
# a reference that follows the policy.
SIZES += ["rl.advantage={normalise: none, baseline: value, process_weight: 0.5}"]
SIZES += ["rl.prm={beta: 1.0, share: 0.5, reference: policy, optim: {lr: 1.0e-3}}"]
SIZES += ["rl.reference={update_every: 3, mixup: 0.5}"]
SIZES += ["rl.filter={spread: true, rounds: 2}"]
SIZES += ["rl.eval={every: 5, problems: 8, samples: 2, batch: 8}", "rl.keep_best=eval/accuracy"]
SIZES += ["rl.loss={kl_coef: 0.01, kl_in: loss, kl_target: 0.01}"]
# What a stage may remember of earlier rewards instead: pass rates that decide what is drawn, and
# baselines of domains.
DRAWN = ["rl.steps=16", "rl.save_every=2", "rl.sample_every=3"]
DRAWN += ["rl.difficulty={weights: {unsolved: 2, hard: 4, middle: 4, solved: 0}}"]
DRAWN += ["rl.advantage={normalise: none, baseline: domain}"]
PATIENCE = 600  # seconds; a run that hangs fails its test


class Command(Training):
    """A training on configs/debug.yaml with a run folder of its own."""

    def __init__(self, runs: Path, *more: str, sizes: list[str] = SIZES):
        words = [f"runs={runs}", *sizes, *more]
        super().__init__(DEBUG, runs / "debug", runs / "log.txt", PATIENCE, *words)

    def run(self) -> tuple[int, str]:
        self.start()
        return self.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Command:
    """The uninterrupted run: what every other one is compared with."""
    command = Command(tmp_path_factory.mktemp("finished"))
    code, said = command.run()
    assert code == 0, said
    return command


@pytest.fixture
def before_rl(finished, tmp_path) -> Command:
    """A copy of the finished run, taken back to where the rl stage begins."""
    command = Command(tmp_path)
    folder = command.folder
    shutil.copytree(finished.folder, folder)
    for name in ("checkpoints/rl", "tensorboard/rl", "samples"):
        shutil.rmtree(folder / name)
    for name in ("stages/rl.json", "stages/after.json", "eval/after.json", "report.html"):
        (folder / name).unlink()
    marker = json.loads((folder / "stages" / "verifier.json").read_text())
    os.truncate(folder / "metrics.jsonl", marker["metrics_bytes"])
    config = yaml.safe_load((folder / "config.resolved.yaml").read_text())
    config["runs"] = str(tmp_path)
    (folder / "config.resolved.yaml").write_text(yaml.safe_dump(config, sort_keys=False, width=100))
    return command


def lasting(folder: Path) -> dict[str, object]:
    """Everything in a run folder that interruptions must not change."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "perf/")
    kept = [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]
    out: dict[str, object] = {"metrics": [json.dumps(row) for row in kept]}  # order of keys, too
    for pattern in ("samples/*", "eval/*", "verdicts/*", "tokenizer.model"):
        out |= {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob(pattern)}
    return out


def policies(folder: Path) -> dict[str, np.ndarray]:
    """The final parameters of every stage that trains some."""
    cfg = settings.load(folder / "config.resolved.yaml")
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
        for name, x in parameters.abstract(cfg.model).items()
    }
    out = {}
    for stage in ("sft", "verifier", "rl"):
        restored = checkpoint.restore_params(folder / "checkpoints" / stage, like)
        out |= {f"{stage}/{name}": np.asarray(x) for name, x in restored.items()}
    return out


def assert_equal(folder: Path, finished: Path) -> None:
    one, other = lasting(folder), lasting(finished)
    assert one["metrics"] == other["metrics"]
    assert list(one) == list(other)
    assert [name for name in one if one[name] != other[name]] == []
    mine, theirs = policies(folder), policies(finished)
    assert [name for name in theirs if mine[name].tobytes() != theirs[name].tobytes()] == []
    assert not list(folder.glob("**/*.part")), "half-written files are left"
    assert not list(folder.glob("**/*orbax-checkpoint-tmp*")), "half-written checkpoints are left"


def writing(command: Command, stage: str) -> bool:
    return any((command.folder / "checkpoints" / stage).glob("*.orbax-checkpoint-tmp*"))


def random_moments() -> random.Random:
    seed = int(os.environ.get("RLVR_TEST_SEED", time.time_ns() % 10_000))
    print(f"to see these moments again: RLVR_TEST_SEED={seed}")
    return random.Random(seed)


def kill_at_random(command: Command, finished: Command, draw: random.Random, most: int) -> None:
    """Kill the run when rl has made 1 to `most` further steps."""
    command.start()
    # After a resume, lines behind the checkpoint are cut off first: count from what is left.
    # Two steps before the end it is killed at once: the waits may add up to the whole stage.
    wanted = min(command.lines("rl") + draw.randint(1, most), finished.lines("rl") - 2)
    alive = command.until(lambda: command.lines("rl") >= wanted)
    time.sleep(draw.uniform(0, 0.3))
    command.kill()
    assert alive, command.wait()[1]


def kill_in_a_write(command: Command) -> None:
    command.start()
    assert command.until(lambda: writing(command, "rl")), command.wait()[1]
    command.kill()
    assert list((command.folder / "checkpoints" / "rl").glob("*.orbax-checkpoint-tmp*"))


def stop(command: Command, signum: signal.Signals, exit_code: int) -> None:
    """A signal saves, and says how to go on."""
    command.start()
    more = command.lines("rl") + 2
    assert command.until(lambda: command.lines("rl") >= more), command.wait()[1]
    command.send(signum)
    code, said = command.wait()
    assert code == exit_code, said
    assert "Traceback" not in said and f"stopped by {signum.name}" in said
    newest = checkpoint.Checkpoints(command.folder / "checkpoints" / "rl").latest()
    assert newest == command.lines("rl"), "the checkpoint is of the last step that was logged"
    assert not (command.folder / "stages" / "rl.json").exists()


def test_kills_and_signals_change_nothing(before_rl, finished):
    """Each of them once, one after the other; then the same command ends the run."""
    command = before_rl
    kill_at_random(command, finished, random_moments(), most=3)
    kill_in_a_write(command)
    stop(command, signal.SIGTERM, 75)
    stop(command, signal.SIGINT, 130)
    code, said = command.run()
    assert code == 0, said
    assert_equal(command.folder, finished.folder)


@pytest.mark.slow
def test_kill_at_random_moments_of_rl(before_rl, finished):
    draw = random_moments()
    for _ in range(5):
        kill_at_random(before_rl, finished, draw, most=5)
    code, said = before_rl.run()
    assert code == 0, said
    assert_equal(before_rl.folder, finished.folder)


def assert_baselines(folder: Path, rows: list[dict]) -> None:
    """An advantage is the reward minus the mean of its domain before the step (and a small KL)."""
    before, checked = dict[str, float](), 0
    for row in rows:
        file = folder / "samples" / f"rl_step_{row['step']:06d}.jsonl"
        for line in file.read_text().splitlines() if file.exists() else ():
            sample = json.loads(line)
            baseline = before.get(f"baseline/{sample['domain']}", 0.0)
            assert sample["reward"] - sample["advantage"] == pytest.approx(baseline, abs=0.03)
            checked += baseline > 0.1
        before |= {name: mean for name, mean in row.items() if name.startswith("baseline/")}
    assert checked > 20


@pytest.mark.slow
def test_kills_change_no_draw_by_pass_rates_and_no_baseline(tmp_path):
    whole, killed = (Command(tmp_path / name, sizes=DRAWN) for name in ("whole", "killed"))
    for command in (whole, killed):
        command.folder.parent.mkdir()
    code, said = whole.run()
    assert code == 0, said
    rows = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    drawn = [row["difficulty/drawn_unseen"] for row in rows if row["stage"] == "rl"]
    assert drawn[0] == 1 and min(drawn) < 1
    assert_baselines(whole.folder, [row for row in rows if row["stage"] == "rl"])
    for wanted in (5, 11):
        killed.start()
        assert killed.until(lambda n=wanted: killed.lines("rl") >= n), killed.wait()[1]
        killed.kill()
    code, said = killed.run()
    assert code == 0, said
    assert_equal(killed.folder, whole.folder)


@pytest.mark.slow
def test_kill_inside_a_checkpoint_write_and_inside_the_next(before_rl, finished):
    for _ in range(2):
        kill_in_a_write(before_rl)
    code, said = before_rl.run()
    assert code == 0, said
    assert_equal(before_rl.folder, finished.folder)


@pytest.mark.slow
def test_kill_in_every_stage_before_rl(tmp_path, finished):
    command = Command(tmp_path)
    folder = command.folder
    moments = {
        "while the problems are written": lambda: (folder / "data").exists(),
        "between tokenizer and sft": lambda: (folder / "stages" / "tokenizer.json").exists(),
        "in sft, between checkpoints": lambda: command.lines("sft") > 16,
        "between before and label": lambda: (folder / "eval" / "before.json").exists(),
        "in verifier, in a checkpoint": lambda: writing(command, "verifier"),
        "between rl and after": lambda: (folder / "stages" / "rl.json").exists(),
    }
    for moment, seen in moments.items():
        command.start()
        assert command.until(seen), f"{moment}: {command.wait()[1]}"
        command.kill()
    code, said = command.run()
    assert code == 0, said
    assert said.count("finished earlier, skipped") == 6
    assert_equal(folder, finished.folder)


def test_a_finished_run_is_left_alone(finished):
    def everything():
        files = [path for path in finished.folder.glob("**/*") if path.is_file()]
        return {path: path.read_bytes() for path in files if path.name != "report.html"}

    before = everything()
    code, said = finished.run()
    assert code == 0, said
    assert said.count("finished earlier, skipped") == 7
    assert everything() == before


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    kept = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        run = Run(settings.load(DEBUG, [f"runs={tmp_path}"]))
        run.catch_signals()
        signal.raise_signal(signal.SIGTERM)
        assert run.check_signal() == signal.SIGTERM
        ended = queue.SimpleQueue()  # a thread of its own ends the process
        monkeypatch.setattr(os, "_exit", ended.put)
        signal.raise_signal(signal.SIGINT)
        assert ended.get(timeout=10) == 130
        run.close()
    finally:
        for signum, handler in kept.items():
            signal.signal(signum, handler)
