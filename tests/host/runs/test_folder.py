"""The run folder: one config, markers that mean what they say, and nothing of others touched."""

import datetime
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr_jax.config import AuditConfig, Config, RlStage, SftStage
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.folder import Interrupted, Run, RunError

ROOT = Path(__file__).parents[3]


def config(folder, **changes):
    stages = (SftStage(steps=5), RlStage(steps=7))
    return Config(**{"name": "demo", "runs": str(folder), "stages": stages} | changes)


@pytest.fixture
def open_run(tmp_path):
    """Config changes -> a Run in tmp_path/demo; the one before it no longer holds the folder."""
    opened = []

    def open_run(**changes):
        for run in opened:
            run.unlock()
        opened.append(Run(config(tmp_path, **changes)))
        return opened[-1]

    yield open_run
    for run in opened:
        run.metrics.close()


def refusal(open_run, **changes):
    with pytest.raises(RunError) as error:
        open_run(**changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- claiming ------------------------------------------------------------------------------


def test_a_new_folder_holds_the_resolved_config(open_run, tmp_path):
    run = open_run()
    assert run.folder == tmp_path / "demo"
    assert settings.load(run.config_file) == run.cfg
    names = ["config.resolved.yaml", "metrics.jsonl", "run.lock"]
    assert sorted(p.name for p in run.folder.iterdir()) == names


def test_folders_above_are_made(tmp_path):
    run = Run(config(tmp_path / "a" / "b"))
    assert run.config_file.exists()
    run.metrics.close()


def test_the_same_config_opens_the_folder_again(open_run):
    first = open_run()
    first.metrics.write("sft", 1, {"loss": 1.0})
    first.finish("sft", {"steps": 5})
    before = first.config_file.read_bytes()
    again = open_run()
    assert again.finished("sft")["steps"] == 5
    assert again.metrics.offset == first.metrics.offset > 0
    assert again.config_file.read_bytes() == before


@pytest.mark.parametrize(
    "changes, key, old, new",
    [
        ({"seed": 3}, "seed", "0", "3"),
        ({"audit": AuditConfig(records=3)}, "audit.records", "16", "3"),
    ],
)
def test_a_folder_of_another_config_is_refused_with_the_key(
    open_run, tmp_path, changes, key, old, new
):
    first = open_run()
    before = first.config_file.read_bytes()
    folder = tmp_path / "demo"
    (folder / "eval").mkdir()
    (folder / "eval" / "before.json").write_text("{}")
    assert refusal(open_run, **changes) == (
        f"{folder} belongs to another config: {key} is {old} there and {new} here; choose another "
        "folder with name=..., or add --as NEWNAME for a new run that begins with what this one "
        "has finished"
    )
    assert first.config_file.read_bytes() == before


def test_the_folder_of_an_older_version_is_opened_again(open_run, tmp_path):
    """Its config has not the keys that came later; they count as their defaults."""
    first = open_run()
    first.finish("sft", {"steps": 5})
    (tmp_path / "demo" / "eval").mkdir()
    (tmp_path / "demo" / "eval" / "before.json").write_text("{}")
    text = first.config_file.read_text()
    old = "".join(line for line in text.splitlines(True) if "preset:" not in line)
    assert old != text
    first.config_file.write_text(old)
    assert open_run().finished("sft")["steps"] == 5
    assert first.config_file.read_text() == old
    said = refusal(open_run, stages=(SftStage(steps=5, batch=3), RlStage(steps=7)))
    assert "stages.sft.batch is 64 there and 3 here" in said


def test_another_name_is_another_folder(open_run, tmp_path):
    open_run()
    open_run(name="other", seed=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo", "other"]


def test_an_empty_folder_is_taken(open_run, tmp_path):
    (tmp_path / "demo").mkdir()
    assert open_run().config_file.exists()


def test_a_folder_with_other_things_is_refused_and_untouched(open_run, tmp_path):
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    assert refusal(open_run) == (
        f"{folder} is not empty and holds no config.resolved.yaml; choose another name=... or "
        "empty it"
    )
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_way_is_refused(open_run, tmp_path):
    (tmp_path / "demo").write_text("a file")
    assert refusal(open_run).startswith(f"cannot use run folder {tmp_path / 'demo'}: ")
    assert (tmp_path / "demo").read_text() == "a file"


def test_an_unwritable_place_is_refused(tmp_path):
    """Root may write anywhere but into a place like this one."""
    place = Path("/proc/self/fdinfo") if os.geteuid() == 0 else tmp_path / "locked"
    if os.geteuid() != 0:
        place.mkdir()
        place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if not place.exists():
        pytest.skip("no unwritable place here")
    with pytest.raises(RunError, match=f"cannot use run folder {place / 'demo'}: "):
        Run(config(place))


def test_killed_while_claiming_the_folder_can_be_taken(open_run, tmp_path):
    """A leftover part of a config that was being written is nobody's work."""
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.resolved.part").write_text("name: de")
    assert open_run().config_file.exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"name: [",
        b"\xff\xfe\x00",
        b"",
        b"null",
        b"just words",
    ],
)
def test_a_damaged_config_of_the_run_is_refused_in_a_sentence(open_run, tmp_path, damage):
    open_run().config_file.write_bytes(damage)
    (tmp_path / "demo" / "eval").mkdir()
    (tmp_path / "demo" / "eval" / "before.json").write_text("{}")
    assert str(tmp_path / "demo") in refusal(open_run)


# ---- markers -------------------------------------------------------------------------------


def test_a_stage_is_finished_when_its_marker_says_so(open_run):
    run = open_run()
    assert run.finished("sft") is None
    run.metrics.write("sft", 1, {"loss": 1.0})
    run.finish("sft", {"steps": 5, "bad": float("nan")})
    marker = run.finished("sft")
    wanted = {"metrics_bytes": run.metrics.offset, "metrics_sha256": run.metrics.digest}
    assert marker == wanted | {"files": {}, "checkpoint": None, "steps": 5, "bad": None}
    assert run.finished("rl") is None


@pytest.mark.parametrize("damage", [b"", b"{", b'{"metrics_bytes": 1', b"\xff"])
def test_a_damaged_marker_is_refused_in_a_sentence(open_run, damage):
    run = open_run()
    run.finish("sft", {})
    path = run.folder / "stages" / "sft.json"
    path.write_bytes(damage)
    with pytest.raises(RunError) as error:
        run.finished("sft")
    assert str(error.value) == f"{path} is damaged; remove it and run again: sft is redone"


@pytest.mark.parametrize("harm", ["changed", "missing"])
@pytest.mark.parametrize("name", ["eval/rl.json", "samples/rl_step_000002.jsonl"])
def test_what_a_finished_stage_left_is_compared_with_its_marker(open_run, name, harm):
    run = open_run()
    (run.folder / "eval").mkdir()
    (run.folder / "eval" / "rl.json").write_text("{}")
    (run.folder / "eval" / "other.json").write_text("{}")
    run.write_samples("rl", 2, [{"response": "x"}])
    run.metrics.write("rl", 1, {"loss": 1.0})
    marker = run.finish("rl", {})
    assert sorted(marker["files"]) == ["eval/rl.json", "samples/rl_step_000002.jsonl"]
    run.check_left("rl", marker)
    path = run.folder / name
    path.unlink() if harm == "missing" else path.write_text("[]")
    with pytest.raises(RunError) as error:
        run.check_left("rl", run.finished("rl"))
    assert f"{path} {'is' if harm == 'missing' else 'has'} {harm} since stage rl" in str(
        error.value
    )
    run.check_left("rl", {"metrics_bytes": 0})  # the marker of an older version says nothing


def test_samples_are_lines_of_json_whatever_the_text(open_run):
    run = open_run()
    rows = [{"response": "é\n\ud800\u2028", "reward": float("nan")}, {"response": "2"}]
    run.write_samples("rl", 25, rows)
    path = run.folder / "samples" / "rl_step_000025.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert found == [{"response": "é\n?\u2028", "reward": None}, {"response": "2"}]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_time_of_a_run_is_that_of_its_first_opening(open_run, tmp_path):
    first = open_run().began
    assert abs(first - datetime.datetime.now()) < datetime.timedelta(minutes=5)
    path = tmp_path / "demo" / "began.json"
    path.write_text('"2031-04-05T06:07:08"')
    assert open_run().began == datetime.datetime(2031, 4, 5, 6, 7, 8)
    path.write_text('"yesterday"')
    with pytest.raises(RunError, match="began.json is damaged"):
        _ = open_run().began


def test_places_are_inside_the_folder(open_run):
    run = open_run()
    for place in (
        run.tokenizer_file,
        run.data,
        run.checkpoints("sft"),
        run.verdicts("label"),
        run.evaluation("after"),
    ):
        assert place.is_relative_to(run.folder) and place != run.folder


# ---- signals -------------------------------------------------------------------------------

SIGNALS = """
import signal, sys, os, time
from rlvr_jax.config import Config, SftStage
from rlvr_jax.host.runs.folder import Run
run = Run(Config(name="demo", runs=sys.argv[1], stages=(SftStage(),)))
run.catch_signals()
assert run.check_signal() is None
signum = int(sys.argv[2])
os.kill(os.getpid(), signum)
assert run.check_signal() == signum, run.check_signal()
assert run.check_signal() == signum
print("asked once", flush=True)
if sys.argv[3] == "twice":
    time.sleep(1.2)  # two of a kind within a second are one
    os.kill(os.getpid(), signum)
    time.sleep(30)
    print("still here", flush=True)
time.sleep(1)  # the thread that answers signals says so
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", ["once", "twice"])
def test_a_signal_asks_once_and_ends_the_second_time(tmp_path, signum, times):
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS, str(tmp_path), str(int(signum)), times],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert "asked once" in done.stdout and "stopping: saving a checkpoint" in done.stdout
    at_once = 75 if signum == signal.SIGTERM else 130
    assert done.returncode == (0 if times == "once" else at_once), done.stderr
    assert "still here" not in done.stdout


def test_interrupted_says_by_what():
    stop = Interrupted(signal.SIGTERM)
    assert str(stop) == "stopped by SIGTERM" and stop.code == 75
    assert str(Interrupted(signal.SIGINT)) == "stopped by SIGINT"
    assert Interrupted(signal.SIGINT).code == 130
    assert str(Interrupted(signal.SIGALRM)) == "its time is up"
    assert Interrupted(signal.SIGALRM).code == 75


def test_a_config_can_be_mended_while_nothing_is_trained(open_run, tmp_path):
    """Problems and tokenizer of the first config go: the mended one may want others."""
    folder = tmp_path / "demo"
    open_run()
    for name in ("data/problems/x", "stages/tokenizer.json", "tokenizer.model"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    run = open_run(seed=3)
    assert "seed: 3" in run.config_file.read_text()
    assert not (folder / "data").exists() and not (folder / "tokenizer.model").exists()
    assert run.finished("tokenizer") is None


@pytest.mark.parametrize("sign", ["checkpoints/sft/step_000001", "verdicts/label.jsonl"])
def test_what_was_trained_or_judged_is_not_given_to_another_config(open_run, tmp_path, sign):
    open_run()
    (tmp_path / "demo" / sign).parent.mkdir(parents=True)
    (tmp_path / "demo" / sign).touch()
    assert "belongs to another config" in refusal(open_run, seed=3)


def test_remarks_are_said_and_kept_once(open_run, tmp_path, capsys):
    run = open_run()
    for _ in range(2):
        run.remark("rl step 1: all rewards are equal")
    run.remark("another")
    assert json.loads((tmp_path / "demo" / "remarks.json").read_text()) == [
        "rl step 1: all rewards are equal",
        "another",
    ]
    assert capsys.readouterr().out.count("all rewards are equal") == 1
    open_run().remark("another")  # as after a resume
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["", "{", "3", '"a"', "[1, {}]"])
def test_damaged_remarks_stop_nothing(open_run, tmp_path, damage):
    run = open_run()
    (tmp_path / "demo" / "remarks.json").write_text(damage)
    run.remark("new")
    assert json.loads((tmp_path / "demo" / "remarks.json").read_text())[-1] == "new"


def test_remarks_do_not_grow_without_end(open_run, tmp_path):
    run = open_run()
    for number in range(60):
        run.remark(f"{number}")
    kept = json.loads((tmp_path / "demo" / "remarks.json").read_text())
    assert kept == [f"{number}" for number in range(10, 60)]


def test_what_was_said_of_another_config_is_forgotten(open_run, tmp_path):
    open_run().remark("old")
    open_run(seed=5)
    assert not (tmp_path / "demo" / "remarks.json").exists()
