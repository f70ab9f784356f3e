"""A harmed run folder, a full disk, data that do not fit: exit code 2, a sentence, nothing lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import make_command
import pytest
from make_door import environment, opened
from make_tiny import TINY, assert_refused, plain, write

from rlvr_jax import train
from rlvr_jax.config import DataConfig, MeshConfig
from rlvr_jax.host.problems import dataset
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.host.text import template
from rlvr_jax.host.text.tokenizer import open_tokenizer
from rlvr_jax.host.text.verifier_prompt import VerifierPrompt

VERIFIER = {"stage": "verifier", "steps": 2, "batch": 8, "held_out": 8}
EVALUATE = {"stage": "evaluate", "policy": "sft", "verifier": ""}


# Data, mesh and run folder: the program has to start for these.  One worker serves most.


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """door(config, override, ...) -> exit code and output, from a process that has jax loaded."""
    with opened(environment()) as ask:
        yield ask


def shell(tmp: Path, *argv: str, before=(), said=plain, **options) -> tuple[int, str]:
    """The same through a process of its own, for what changes a process."""
    pipe = subprocess.PIPE
    options = {"env": environment(), "stdout": pipe, "stderr": pipe, "text": True} | options
    command = [*before, *make_command.train(), "--config", *argv]
    done = subprocess.run(command, timeout=300, **options)
    return done.returncode, said(done.stdout + done.stderr)


@pytest.fixture(scope="module")
def trained(door, tmp_path_factory) -> Path:
    """A finished run: tokenizer, sft and rl."""
    home = tmp_path_factory.mktemp("trained")
    code, said = door(write(home))
    assert code == 0, said
    return home


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """The finished run in another place; its config file is beside it."""
    return adopt(trained, tmp_path / "copy").parent


def adopt(trained: Path, home: Path, **changes) -> Path:
    """A copy of the finished run that belongs to another config, the one returned."""
    shutil.copytree(trained, home)
    config = write(home, **changes)
    resolved = settings.dump(settings.load(config))
    (home / "tiny" / "config.resolved.yaml").write_text(resolved)
    return config


def reopen(home: Path, stage: str) -> Path:
    """Take a finished stage back to just before its end; its checkpoints stay."""
    (home / "tiny" / "stages" / f"{stage}.json").unlink()
    return home / "tiny" / "checkpoints" / stage


def truncate(folder: Path) -> None:
    """Cut the largest file under a folder in half."""
    files = [path for path in folder.glob("**/*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)


def deletions(said: str) -> list[str]:
    """The folder that a sentence asks to delete."""
    return re.findall(r"delete it: rm -r '(.+?)'", said)


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (("mesh.tensor=3",), ("multiple of mesh.tensor = 3", "mesh.letters")),
        (("mesh.data=3",), ("not a multiple of mesh.data x mesh.fsdp = 3",)),
        (("mesh.fsdp=2", "sft.batch=7"), ("sft.batch", "not a multiple of")),
        (("mesh.data=8",), ("rl.prompts is 4", "not a multiple of mesh.data x mesh.fsdp = 8")),
    ],
)
def test_mesh(override, words, door, tmp_path):
    code, said = door(write(tmp_path), *override)
    assert_refused(code, said, *words)
    assert not (tmp_path / "tiny").exists()


def test_device_count_set_elsewhere(tmp_path):
    """More CPU devices in XLA_FLAGS than the mesh has: the mesh decides, and it runs."""
    env = environment() | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    config = write(tmp_path, stages=[{"stage": "tokenizer"}])
    code, said = shell(tmp_path, str(config), env=env)
    assert code == 0 and "1 cpu device(s)" in said, said


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.train=0", ("data.train",)),
        ("data.sft=0", ("data.sft",)),
        ("data.train=2", ("data.train",)),
        ("data.train=9000 data.tasks=[family]", ("'family' has too few distinct problems",)),
        ("model.vocab=30000", ("model.vocab",)),
        ("model.vocab=200", ("model.vocab",)),
        ("rl.policy=other", ("'other'",)),
    ],
)
def test_data_that_does_not_fit(override, words, door, tmp_path):
    config = write(tmp_path)
    overrides = override.split()
    if override.startswith("model.vocab"):
        overrides.append(override.replace("model", "verifier"))
    code, said = door(config, *overrides)
    assert_refused(code, said, *words)
    assert not list((tmp_path / "tiny").glob("checkpoints/*/step*")), "found before any training"


def longest(trained: Path) -> dict[str, int]:
    """Tokens of the longest text of each kind that the sft stage has to fit in its columns."""
    records = list(dataset.open_split(trained / "tiny" / "data", "sft"))
    tok, cfg = open_tokenizer(trained / "tiny" / "tokenizer.model"), DataConfig()
    return {
        "prompt_columns": max(len(template.encode_prompt(r, tok, cfg)) for r in records),
        "check_columns": max(VerifierPrompt(tok, cfg).lengths(r)[0] for r in records),
        "response_columns": max(len(tok.encode(r["demonstration"])) + 1 for r in records),  # + EOS
    }


@pytest.mark.parametrize("field", ["prompt_columns", "check_columns", "response_columns"])
def test_text_longer_than_its_columns(field, door, trained, tmp_path):
    """One record too long is found before the first step, and one change is enough."""
    enough = longest(trained)[field]
    stages = [*TINY["stages"][:2], {"stage": "label"}, VERIFIER]
    for columns in (2, enough - 1):
        config = write(tmp_path / str(columns), stages=stages)
        code, said = door(config, f"data.{field}={columns}")
        assert_refused(code, said, f"raise data.{field} to at least {enough}")
        assert not (tmp_path / str(columns) / "tiny" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (TINY["stages"][1:], ("tokenizer",)),
        ([TINY["stages"][i] for i in (0, 2, 1)], ("'sft'", "list it before")),
        ([TINY["stages"][0], EVALUATE], ("'sft'", "list it before")),
        ([TINY["stages"][0], {"stage": "label"}], ("'sft'", "list it before")),
        ([TINY["stages"][0], VERIFIER], ("'label'", "list it before")),
    ],
    ids=["no tokenizer", "rl before sft", "nothing to evaluate", "nobody to label", "no verdicts"],
)
def test_stages_in_the_wrong_order(stages, words, door, tmp_path):
    code, said = door(write(tmp_path, stages=stages))
    assert_refused(code, said, *words)


@pytest.mark.parametrize("override", ["data.tasks=[smu]", "data.sft=2", "mesh.fsdp=5"])
def test_a_refused_config_can_be_mended_in_place(override, door, tmp_path):
    """Refused before any work: the mended config must not be told to go elsewhere."""
    config = write(tmp_path, stages=TINY["stages"][:2])
    code, said = door(config, *override.split())
    assert_refused(code, said)
    code, said = door(config)
    assert code == 0, said


def test_run_folder_of_another_config(copy, door):
    before = snapshot(copy)
    code, said = door(copy / "config.yaml", "rl.optim.lr=0.5")
    assert_refused(code, said, "belongs to another config", "lr is 0.001 there and 0.5 here")
    assert snapshot(copy) == before


def test_run_folder_of_somebody_else(tmp_path, door):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.tex").write_text("years of work")
    code, said = door(write(tmp_path))
    assert_refused(code, said, "is not empty and holds no config.resolved.yaml")
    assert (tmp_path / "tiny" / "thesis.tex").read_text() == "years of work"


def test_killed_while_claiming_its_folder(tmp_path, door):
    """The config was half written when the first run was killed: nobody else's folder."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.resolved.part").write_text("name: ti")
    code, said = door(write(tmp_path, stages=[{"stage": "tokenizer"}]))
    assert code == 0, said


@pytest.mark.parametrize("place", ["runs", "runs/tiny"])
def test_run_folder_that_is_a_file(place, tmp_path, door):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("")
    code, said = door(write(tmp_path), f"runs={tmp_path / 'runs'}")
    assert_refused(code, said, "cannot use run folder", str(tmp_path / "runs" / "tiny")[-12:])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_run_folder_that_is_read_only(tmp_path, door):
    home = tmp_path / "home"
    config = write(home)
    home.chmod(0o500)
    code, said = door(config)
    home.chmod(0o700)
    assert_refused(code, said, "cannot use run folder", "Permission denied")


def test_damaged_checkpoint_of_the_stage_itself(copy, trained, door):
    newest = reopen(copy, "rl") / "step_000004"
    truncate(newest)
    before = snapshot(copy)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "is damaged", "go on from step 2, delete it")
    lost = {path for path, data in before.items() if snapshot(copy).get(path) != data}
    assert not {path for path in lost if path.name != "metrics.jsonl"}
    assert deletions(said) == [str(newest)]
    shutil.rmtree(newest)
    code, said = door(copy / "config.yaml")
    assert code == 0 and "rl: RESUMING from step 2 of 4" in said, said
    assert rows(copy) == rows(trained)


def test_damaged_checkpoint_of_an_earlier_stage(copy, door):
    shutil.rmtree(reopen(copy, "rl"))
    truncate(copy / "tiny" / "checkpoints" / "sft" / "step_000004")
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "sft", "is damaged")


def test_lost_checkpoint_of_an_earlier_stage(copy, door):
    shutil.rmtree(reopen(copy, "rl"))
    shutil.rmtree(copy / "tiny" / "checkpoints" / "sft")
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "sft", "holds no complete checkpoint")


@pytest.mark.parametrize("content", ["", '{"steps": 4', "[]", "{}"])
def test_damaged_marker(content, copy, trained, door):
    marker = copy / "tiny" / "stages" / "sft.json"
    marker.write_text(content)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "sft.json", "is damaged", "remove it")


@pytest.mark.parametrize("content", ['{"verdict": 1', "[1]\n" * 99, '{"verdict": 1}\n' * 99])
def test_damaged_verdicts(content, tmp_path, trained, door):
    config = adopt(
        trained, tmp_path / "copy", stages=[*TINY["stages"], {"stage": "label"}, VERIFIER]
    )
    home = config.parent
    shutil.copy(home / "tiny" / "stages" / "rl.json", home / "tiny" / "stages" / "label.json")
    (home / "tiny" / "verdicts").mkdir()
    (home / "tiny" / "verdicts" / "label.jsonl").write_text(content)
    code, said = door(config)
    assert_refused(code, said, "label.jsonl", "is damaged")


@pytest.mark.parametrize("name", ["problems-train*", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("harm", ["truncated", "gone"])
def test_damaged_data(name, harm, copy, door):
    shutil.rmtree(reopen(copy, "rl"))
    (path,) = (copy / "tiny" / "data" / "problems").glob(f"*/{name}")
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, str(path.name))


def test_damaged_tokenizer(copy, door):
    shutil.rmtree(reopen(copy, "rl"))
    (copy / "tiny" / "tokenizer.model").write_bytes(b"not a model")
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "tokenizer.model")


def test_tokenizer_of_another_size(copy, door, tmp_path):
    other = write(
        *(tmp_path / "other",),
        model=TINY["model"] | {"vocab": 330},
        verifier=TINY["model"] | {"vocab": 330},
        stages=[{"stage": "tokenizer"}],
    )
    assert door(other)[0] == 0
    shutil.rmtree(reopen(copy, "rl"))
    shutil.copy(tmp_path / "other" / "tiny" / "tokenizer.model", copy / "tiny")
    (copy / "tiny" / "stages" / "tokenizer.json").write_text('{"metrics_bytes": 0}')
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "330", "model.vocab is 320")


@pytest.mark.parametrize("left", [0, 100])
def test_metrics_shorter_than_the_checkpoint_says(left, copy, door):
    """Lost lines cannot be computed again; filling the gap with zeros would hide it."""
    reopen(copy, "rl")
    os.truncate(copy / "tiny" / "metrics.jsonl", left)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "metrics.jsonl")


@pytest.mark.parametrize("harm", ["gone", "cut", "edited"])
@pytest.mark.parametrize("stage", ["", "rl"], ids=["finished", "in rl"])
def test_metrics_that_are_not_those_of_the_run(stage, harm, copy, door):
    if stage:
        reopen(copy, stage)
    path = copy / "tiny" / "metrics.jsonl"
    text = path.read_text()
    last = text.rindex('"step": 4')  # a line of rl, before its last checkpoint
    changed = {"cut": text[: last - 20], "edited": text[:last] + text[last:].replace("4", "5", 1)}
    path.unlink() if harm == "gone" else path.write_text(changed[harm])
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "metrics.jsonl has", "put metrics.jsonl back")


def test_checkpoint_of_another_stage(copy, door):
    mine = reopen(copy, "rl")
    shutil.rmtree(mine)
    shutil.copytree(mine.with_name("sft"), mine)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "are not those of this run (they were written by stage sft)")


def test_checkpoint_of_another_config(trained, tmp_path, door):
    """Its shapes fit, so that nothing else would tell."""
    other = [TINY["stages"][0], TINY["stages"][1] | {"optim": {"lr": 0.5}}, TINY["stages"][2]]
    config = adopt(trained, tmp_path / "copy", stages=other)
    reopen(tmp_path / "copy", "rl")
    code, said = door(config)
    assert_refused(code, said, "not those of this run", "lr is 0.001 there and 0.5 here")


def test_checkpoint_that_an_earlier_stage_did_not_leave(copy, door):
    mine = reopen(copy, "rl")
    earlier = mine.with_name("sft") / "step_000004"
    shutil.rmtree(earlier)
    (mine / "step_000004").rename(earlier)
    shutil.rmtree(mine)
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, "is not the one that stage sft left", "stages/sft.json")


@pytest.mark.parametrize("name", ["samples/rl_step_000004.jsonl", "tokenizer.model"])
def test_files_that_a_finished_stage_did_not_leave(name, copy, door):
    path = copy / "tiny" / name
    path.write_bytes(path.read_bytes()[:-1])
    code, said = door(copy / "config.yaml")
    assert_refused(code, said, f"{name} has changed since stage", "put it back")


# Runs a command that may write no file longer than so many bytes.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def without_threads(text: str) -> str:
    """What is printed, without the tracebacks of Orbax's threads that are still at a failed write.

    The sentence of an error begins with "error: " and ends with its line; a thread may have left
    the line before it without an end.
    """
    return plain("\n".join(re.findall(r"(?<!\w)error: .*", text)))


def rows(home: Path) -> list[dict]:
    lines = (home / "tiny" / "metrics.jsonl").read_text().splitlines()
    drop = ("time/", "perf/")
    return [{k: v for k, v in json.loads(x).items() if not k.startswith(drop)} for x in lines]


def test_full_disk_by_file_size(copy, trained, tmp_path_factory):
    """A write that fails half-way: the last good checkpoint stays, and with room it goes on."""
    checkpoints = reopen(copy, "rl")
    shutil.rmtree(checkpoints / "step_000004")
    good = snapshot(checkpoints)
    limit = 8_000 + (copy / "tiny" / "metrics.jsonl").stat().st_size

    tmp, config = tmp_path_factory.getbasetemp(), str(copy / "config.yaml")
    code, said = shell(
        tmp, config, before=[sys.executable, "-c", LIMITED, str(limit)], said=without_threads
    )
    assert_refused(code, said, "the disk is full; make room and go on", "step 2, the last good")
    assert snapshot(checkpoints) == good
    code, said = shell(tmp, config)
    assert code == 0, said
    assert rows(copy) == rows(trained)


@pytest.mark.slow
@pytest.mark.parametrize("room", [100, 600], ids=["in the data", "in a checkpoint"])
def test_full_disk(room, trained, tmp_path, tmp_path_factory):
    """A real file system of `room` kilobytes."""
    disk = tmp_path / "disk"
    config = str(write(disk))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        write(disk)
        tmp = tmp_path_factory.getbasetemp()
        code, said = shell(tmp, config, said=without_threads)
        assert_refused(code, said)
        assert "full" in said or "No space left" in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        code, said = shell(tmp, config)
        assert code == 0, said
        assert rows(disk) == rows(trained)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_missing_package_is_named(tmp_path):
    """The tasks need an optional package: say which, as for any other thing to mend."""
    hidden = tmp_path / "reasoning_gym.py"
    hidden.write_text("raise ModuleNotFoundError('hidden by a test')")
    env = environment() | {"PYTHONPATH": str(tmp_path)}
    code, said = shell(tmp_path, str(write(tmp_path / "home")), env=env)
    assert_refused(code, said, "pip install reasoning-gym")


def test_a_second_start_is_refused_with_who_holds_the_folder(copy, door):
    """Two trainings in one folder would destroy each other's checkpoints."""
    reopen(copy, "rl")
    with contextlib.closing(Run(settings.load(copy / "config.yaml"))):
        before = snapshot(copy)
        code, said = door(copy / "config.yaml")
        assert_refused(code, said, f"is in use by process {os.getpid()} on", "wait for it")
        assert snapshot(copy) == before
    code, said = door(copy / "config.yaml")
    assert code == 0, said


def test_any_name_of_a_run_folder_works(door, tmp_path):
    """Brackets and braces are patterns to some libraries, colons are addresses."""
    runs = tmp_path / "a[b] {c}:d]*e%20\\f" / "gs:"
    config = write(runs, stages=TINY["stages"][:2])
    code, said = door(config, "sft.steps=2")
    assert code == 0, said
    (runs / "tiny" / "stages" / "sft.json").unlink()
    code, said = door(config, "sft.steps=2")
    assert code == 0, said
    assert [row["step"] for row in rows(runs)] == [1, 2]
    assert (runs / "tiny" / "report.html").exists()
    assert not list((runs / "tiny" / "checkpoints" / "sft").glob("*tmp*"))


@pytest.mark.parametrize("command", ["train", "audit", "generate", "convert", "report", "bench"])
def test_ctrl_c_during_the_imports_ends_without_a_traceback(command, tmp_path):
    for name in ("jax", "rich"):
        (tmp_path / f"{name}.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(60)")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    words = [sys.executable, "-m", f"rlvr_jax.{command}", "--help"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT  # which a shell shows as 130


def test_a_missing_wall_is_said_once_at_the_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "missing_walls", lambda stages: ["memory", "system calls"])
    # What would change the process of all later tests, or is refused in one that has used JAX.
    monkeypatch.setattr(train.compiles, "enable_disk_cache", lambda: None)
    mesh = train.sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(train.sharding, "claim_mesh", lambda *_: mesh)
    config = write(tmp_path, stages=TINY["stages"][:1])
    assert train.main(["--config", str(config)]) == 0
    said = plain(capsys.readouterr().out)
    assert said.count("programs run without a wall for memory and system calls") == 1


def test_sizes_beyond_the_memory(door, tmp_path):
    code, said = door(
        write(tmp_path, stages=TINY["stages"][:2]), "data.prompt_columns=1" + "0" * 12
    )
    assert_refused(code, said, "the memory is too small for these sizes")


def test_a_rule_of_ones_own_is_tried_before_the_first_stage(door, tmp_path):
    """It fails, is mended in place, and the same command goes on."""
    rule = tmp_path / "mine.py"
    rule.write_text("def score(completion, record):\n    return record['nonesuch']\n")
    config = write(tmp_path)
    code, said = door(config, f"rl.reward.rule={rule}", "rl.steps=1", "sft.steps=1")
    assert code == 2 and "Traceback" not in said, said
    assert "KeyError: 'nonesuch' (mine.py line 2)" in said and "It was tried on" in said
    assert not (tmp_path / "tiny" / "metrics.jsonl").read_bytes()
    rule.write_text("def score(completion, record):\n    return 'x' not in completion\n")
    code, said = door(config, f"rl.reward.rule={rule}", "rl.steps=1", "sft.steps=1")
    assert code == 0 and f"the rule {rule} gives 1 and 1 to" in said, said
