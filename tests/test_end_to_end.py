"""configs/debug.yaml from the command line: what a run leaves, and that a mesh changes nothing."""

import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import make_command
import pytest
from tensorboardX.proto.event_pb2 import Event

from rlvr_jax.host.runs import settings

DEBUG = Path(__file__).parents[1] / "configs" / "debug.yaml"
EIGHT = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2")
TRAIN = (sys.executable, "-m", "rlvr_jax.train")
STAGES = ["tokenizer", "sft", "before", "label", "verifier", "rl", "after"]


def run(runs: Path, *overrides: str, words: Sequence[str] = TRAIN) -> tuple[Path, str]:
    """The command, to its end: the run folder and what was printed, as one line."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
    }
    command = [*words, "--config", str(DEBUG), f"runs={runs}"]
    done = subprocess.run([*command, *overrides], env=env, capture_output=True, timeout=900)
    said = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
    assert done.returncode == 0, said
    return runs / "debug", said


def up_to_rl(folder: Path, runs: Path, *overrides: str) -> None:
    """A copy of a finished run that has yet to do rl and what follows, by another config."""
    new = runs / "debug"
    shutil.copytree(folder, new)
    for name in ("checkpoints/rl", "tensorboard/rl", "samples"):
        shutil.rmtree(new / name)
    for name in ("stages/rl.json", "stages/after.json", "eval/after.json", "report.html"):
        (new / name).unlink()
    marker = json.loads((new / "stages" / "verifier.json").read_text())
    os.truncate(new / "metrics.jsonl", marker["metrics_bytes"])
    cfg = settings.load(DEBUG, [f"runs={runs}", *overrides])
    (new / "config.resolved.yaml").write_text(settings.dump(cfg))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics(folder: Path, stage: str) -> list[dict]:
    return [row for row in lines(folder / "metrics.jsonl") if row["stage"] == stage]


def samples(folder: Path) -> list[dict]:
    files = sorted((folder / "samples").glob("rl_step_*.jsonl"))
    return [row for path in files for row in lines(path)]


def numbers(value):
    """Every number in a JSON value; null, where a number was not finite, as nan."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers(item)
    elif not isinstance(value, str):
        yield math.nan if value is None else value


def events(path: Path):
    """TensorBoard events of a file: length, its checksum, the event, its checksum."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (size,) = struct.unpack_from("<Q", data, place)
        event = Event()
        event.ParseFromString(data[place + 12 : place + 12 + size])
        yield event
        place += 12 + size + 4


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, str]:
    return run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def debug(told) -> Path:
    return told[0]


def test_terminal(told):
    folder, said = told
    for words in (*(f"{stage}: done in" for stage in STAGES), "1 cpu device(s)", "report.html"):
        assert words in said
    assert "Traceback" not in said and "Warning" not in said


def test_run_folder(debug):
    for name in ("config.resolved.yaml", "tokenizer.model", "report.html", "verdicts/label.jsonl"):
        assert (debug / name).stat().st_size > 0
    assert {path.stem for path in (debug / "stages").iterdir()} == set(STAGES)
    assert {path.name for path in (debug / "checkpoints").iterdir()} == {"sft", "verifier", "rl"}
    assert (debug / "checkpoints" / "rl" / "step_000010").is_dir()
    assert {path.name for path in (debug / "eval").iterdir()} == {
        *("before.json", "before.jsonl", "after.json", "after.jsonl")
    }
    assert not list(debug.glob("**/*.part")) and not list(debug.glob("**/*tmp*"))
    cfg = settings.load(DEBUG, [f"runs={debug.parent}"])
    assert settings.load(debug / "config.resolved.yaml") == cfg, "the resolved config loads again"


def test_metrics(debug):
    rows = lines(debug / "metrics.jsonl")
    order = [(row["stage"], row["step"]) for row in rows]
    sizes = {"sft": 60, "verifier": 30, "rl": 10}
    assert order == [(stage, i + 1) for stage, n in sizes.items() for i in range(n)]
    assert all(math.isfinite(x) for x in numbers(rows)), "a number is not finite"
    assert all(row["perf/compiles"] == 1 for row in rows), "a step was compiled again"
    assert metrics(debug, "sft")[-1]["loss"] < 0.5 * metrics(debug, "sft")[0]["loss"]


def test_sampler_and_trainer_agree(debug):
    rows = metrics(debug, "rl")
    assert max(row["mismatch/logprob_diff_max"] for row in rows) <= 1e-5
    assert all(row["policy/clip_frac"] == 0 and row["policy/skipped"] == 0 for row in rows)


def test_rl_metrics_describe_the_samples(debug):
    """What the log says of a step is what the sample file of that step holds."""
    for step in (5, 10):
        rows = lines(debug / "samples" / f"rl_step_{step:06d}.jsonl")
        logged = metrics(debug, "rl")[step - 1]
        assert len(rows) == 8 * 4
        rewards, lengths = [row["reward"] for row in rows], [len(row["pieces"]) for row in rows]
        assert logged["reward/mean"] == pytest.approx(sum(rewards) / 32, abs=1e-6)
        assert logged["reward/max"] == pytest.approx(max(rewards), abs=1e-6)
        assert logged["completion/tokens"] == sum(lengths)
        assert logged["completion/truncated_frac"] == sum(row["truncated"] for row in rows) / 32
        assert sum(logged["reward/histogram"]) == 32
        assert all(len(row["piece_values"]) == len(row["pieces"]) for row in rows)
        for row in rows:
            ratios = row["token_values"]["ratio"]
            assert len(ratios) == len(row["pieces"]) and min(ratios) > 0
            assert row["parts"]["p1"] == pytest.approx(row["reward"], rel=1e-3)
        prompts = [row["prompt"] for row in rows if "prompt" in row]
        assert len(prompts) == len({row["question"] for row in rows}) and all(prompts)
        assert all(0 <= x <= 1 for x in rewards)
        assert max(max(row["piece_values"]) for row in rows) <= 0, "log-probabilities"


def test_evaluations(debug):
    for name in ("before", "after"):
        told = json.loads((debug / "eval" / f"{name}.json").read_text())
        assert told["n"] == 32 and all(0 <= x <= 1 for x in numbers(told["accuracy"]))
        assert set(told["accuracy"]) == {"all", "arithmetic", "logic"}
        assert ("verifier" in told) == (name == "after")
        assert all(told["pass_at_k"][d] >= told["accuracy"][d] for d in told["accuracy"])


def test_tensorboard(debug):
    for stage in ("sft", "verifier", "rl"):
        (path,) = (debug / "tensorboard" / stage).iterdir()
        seen = {}
        for event in events(path):
            for value in event.summary.value:
                seen.setdefault(value.tag, {})[event.step] = value.simple_value
        name = "reward/mean" if stage == "rl" else "loss"
        logged = {row["step"]: row[name] for row in metrics(debug, stage)}
        assert seen[name] == pytest.approx(logged, rel=1e-5)


def test_report_is_one_page_that_needs_no_network(debug):
    page = (debug / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page)
    for word in ("reward/mean", "before", "after", "syllogism"):
        assert word in page


def test_split_step(debug, tmp_path):
    """The reward is the host's, on two devices: two programs, the same loop around them."""
    asked = (
        *("rl.reward.source=rule", "rl.reward.gates=[repetition]", "rl.also={copy: contains}"),
        *("rl.advantage.weights={reward: 1, copy: 0.5}", "rl.advantage.mix=after"),
        "mesh.data=2",
    )
    up_to_rl(debug, tmp_path, *asked)
    folder, said = run(tmp_path, *asked, words=make_command.train())
    assert said.count("finished earlier, skipped") == 5
    rows = metrics(folder, "rl")
    assert len(rows) == 10 and all(math.isfinite(x) for x in numbers(rows))
    assert all(row["perf/compiles"] == 1 for row in rows)
    assert max(row["mismatch/logprob_diff_max"] for row in rows) <= 1e-5
    assert all(0 <= row["reward"] <= row["oracle"] for row in samples(folder))
    assert all(0 < row["gate/repetition"] <= 1 and 0 <= row["reward/copy"] <= 1 for row in rows)
    pages = lines(folder / "samples" / "rl_step_000005.jsonl")
    assert metrics(folder, "rl")[4]["reward/mean"] == pytest.approx(
        sum(row["reward"] for row in pages) / len(pages)
    )


def assert_same_rl(mesh: Path, one: Path) -> None:
    mine, theirs = samples(mesh), samples(one)
    assert [row["pieces"] for row in mine] == [row["pieces"] for row in theirs]
    assert [row["question"] for row in mine] == [row["question"] for row in theirs]
    near = pytest.approx([row["reward"] for row in theirs], abs=1e-5)
    assert [row["reward"] for row in mine] == near
    for a, b in zip(metrics(mesh, "rl"), metrics(one, "rl"), strict=True):
        assert a["reward/mean"] == pytest.approx(b["reward/mean"], abs=1e-5)
        assert a["completion/tokens"] == b["completion/tokens"]
        assert a["mismatch/logprob_diff_max"] <= 1e-5
        assert a["perf/compiles"] == 1


@pytest.mark.slow
def test_rl_on_eight_devices_is_rl_on_one(debug, tmp_path):
    """From one device's checkpoints, on data x fsdp x tensor = 2 x 2 x 2."""
    up_to_rl(debug, tmp_path, *EIGHT)
    folder, said = run(tmp_path, *EIGHT)
    assert "8 cpu device(s)" in said
    assert_same_rl(folder, debug)


@pytest.mark.slow
def test_every_stage_on_eight_devices(debug, tmp_path):
    """Training magnifies rounding, so after sixty steps of sft equality is no longer exact."""
    folder, said = run(tmp_path, *EIGHT)
    assert "8 cpu device(s)" in said
    for stage, name in (("sft", "loss"), ("verifier", "loss")):
        mine, theirs = ([row[name] for row in metrics(f, stage)] for f in (folder, debug))
        assert mine[:10] == pytest.approx(theirs[:10], rel=1e-4)
        assert mine[-1] == pytest.approx(theirs[-1], rel=0.1)
    rows = metrics(folder, "rl")
    assert all(math.isfinite(x) for x in numbers(rows))
    assert max(row["mismatch/logprob_diff_max"] for row in rows) <= 1e-5
    assert all(row["perf/compiles"] == 1 for row in rows)


@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path):
    """No cache, no flags, a folder of the user's own."""
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [*TRAIN, "--config", str(DEBUG)]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, timeout=900)
    assert (tmp_path / "runs" / "debug" / "report.html").exists()
    rows = metrics(tmp_path / "runs" / "debug", "rl")
    assert max(row["mismatch/logprob_diff_max"] for row in rows) <= 1e-5
