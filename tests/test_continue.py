"""A run goes on under a changed config, or a new one begins with what it has finished."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from make_door import environment, opened
from make_tiny import TINY, assert_refused, plain, write

from rlvr_jax import convert, generate, parameters
from rlvr_jax.host.runs import checkpoint, settings

EVALUATE = {"stage": "evaluate", "name": "after", "verifier": "", "samples": 1}
RL = "rl.save_every=2"
TIMED = ("time/", "perf/")


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with opened(environment()) as ask:
        yield ask


def ok(door, *words) -> str:
    code, said = door(*words)
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def trained(door, tmp_path_factory) -> Path:
    """A finished run of tokenizer, sft and 4 steps of rl, and an evaluation after them."""
    home = tmp_path_factory.mktemp("trained")
    ok(door, write(home, stages=[*TINY["stages"], EVALUATE]))
    return home


@pytest.fixture(scope="module")
def longer(door, tmp_path_factory) -> Path:
    """The run that had 6 steps, and a checkpoint every third one, from the start."""
    home = tmp_path_factory.mktemp("longer")
    ok(door, write(home), "rl.steps=6", "rl.save_every=3")
    return home / "tiny"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """The finished run, in another place, before its evaluation; its config is beside it."""
    shutil.copytree(trained, tmp_path / "copy")
    config = write(tmp_path / "copy")
    folder = tmp_path / "copy" / "tiny"
    (folder / "stages" / "after.json").unlink()
    (folder / "eval" / "after.json").unlink()
    (folder / "config.resolved.yaml").write_text(settings.dump(settings.load(config)))
    return config


def reopen(config: Path) -> None:
    """Take rl back to its second step, as a kill after it would have."""
    folder = config.parent / "tiny"
    (folder / "stages" / "rl.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "rl" / "step_000004")


def rows(folder: Path, stage: str = "rl") -> list[dict]:
    """The metrics of a stage, without times and without those that only a last step has."""
    every = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if not k.startswith(TIMED) and k != "oracle/gap"}
        for row in every
        if row["stage"] == stage
    ]


def params(folder: Path, stage: str, step: int) -> dict[str, np.ndarray]:
    cfg = settings.load(folder / "config.resolved.yaml", sizes=None).model
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one)
        for name, x in parameters.abstract(cfg).items()
    }
    found = checkpoint.restore_params(folder / "checkpoints" / stage, like, step=step)
    return {name: np.asarray(x) for name, x in found.items()}


def assert_same(one: Path, other: Path, step: int) -> None:
    assert rows(one)[:step] == rows(other)[:step] and len(rows(one)) == step
    mine, theirs = (params(folder, "rl", step) for folder in (one, other))
    assert [name for name in theirs if mine[name].tobytes() != theirs[name].tobytes()] == []


def test_a_finished_stage_takes_further_steps(copy, longer, door):
    said = ok(door, copy, "rl.steps=6", "rl.save_every=3")
    assert "goes on under a changed config: stages.rl.steps was 4 and is 6" in said
    assert "stages.rl.save_every was 2 and is 3" in said and "RESUMING from step 4 of 6" in said
    assert_same(copy.parent / "tiny", longer, 6)
    said = ok(door, copy, "rl.steps=6", "rl.save_every=3")
    assert "changed config" not in said and said.count("finished earlier, skipped") == 3
    assert "was 4 and is 6" in (copy.parent / "tiny" / "remarks.json").read_text()


def test_an_unfinished_stage_takes_fewer_steps_with_other_intervals_and_workers(copy, longer, door):
    reopen(copy)
    said = ok(door, copy, "rl.steps=3", "rl.save_every=1", "rl.reward.workers=1", "rl.keep=1")
    assert "stages.rl.reward.workers was 2 and is 1" in said and "step 2 of 3" in said
    folder = copy.parent / "tiny"
    assert_same(folder, longer, 3)
    assert checkpoint.steps_in(folder / "checkpoints" / "rl") == [3]
    code, said = door(copy, "rl.steps=2", "rl.save_every=1", "rl.reward.workers=1", "rl.keep=1")
    assert_refused(code, said, "rl.steps is 3 there and 2 here, and the stage has finished", "--as")


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(copy, longer, tmp_path):
    reopen(copy)
    with opened(environment()) as ask:
        said = ok(ask, copy, "mesh.data=2")
    assert "mesh.data was 1 and is 2" in said and "2 cpu device(s)" in said
    mine, theirs = rows(copy.parent / "tiny"), rows(longer)
    assert mine[:2] == theirs[:2]
    for one, other in zip(mine[2:], theirs[2:4], strict=True):
        for name, value in other.items():
            if isinstance(value, float):
                np.testing.assert_allclose(one[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_stage_is_added_behind_the_last_one(copy, trained, door):
    config = write(copy.parent, stages=[*TINY["stages"], EVALUATE])
    said = ok(door, config)
    assert "stage after is new" in said and said.count("finished earlier, skipped") == 3
    one, other = (x / "tiny" / "eval" / "after.json" for x in (copy.parent, trained))
    assert one.read_bytes() == other.read_bytes()


def test_what_has_begun_after_a_stage_keeps_it(trained, longer, door):
    """With an evaluation behind it, rl does not go on in place; a new run does both."""
    config = trained / "config.yaml"
    before = {x: x.read_bytes() for x in (trained / "tiny").glob("**/*") if x.is_file()}
    code, said = door(config, "rl.steps=6")
    assert_refused(code, said, "steps is 4 there and 6 here, and stage after has begun after it")
    said = ok(door, config, "--as", "more", "rl.steps=6")
    assert "begins with tokenizer, sft of" in said
    assert "rl goes on from its checkpoint of step 4 (stages.rl.steps was 4 and is 6)" in said
    assert said.count("finished earlier, skipped") == 2 and "RESUMING from step 4 of 6" in said
    more = trained / "more"
    assert_same(more, longer, 6)
    assert rows(more, "sft") == rows(longer, "sft")
    assert json.loads((more / "eval" / "after.json").read_text())["step"] == 6
    said = ok(door, config, "--as", "more", "rl.steps=6")  # the same command goes on
    assert said.count("finished earlier, skipped") == 4
    changed = [x for x, data in before.items() if x.read_bytes() != data]
    assert [x.name for x in changed if x.name != "run.lock"] == [], "the old run is as it was"
    for stage in ("sft", "rl"):
        (file,) = (more / "checkpoints" / stage / "step_000004").glob("crc32.json")
        assert file.stat().st_nlink > 1, "a hard link, which outlives the other run"


def test_a_new_run_takes_over_an_evaluation_with_its_answers(trained, door, tmp_path):
    stages = [*TINY["stages"], EVALUATE, EVALUATE | {"name": "again"}]
    config = write(tmp_path, runs=str(trained), stages=stages)
    said = ok(door, config, "--as", "twice")
    assert said.count("finished earlier, skipped") == 4
    mine, theirs = (trained / x / "eval" for x in ("twice", "tiny"))
    assert (mine / "after.jsonl").read_bytes() == (theirs / "after.jsonl").read_bytes()
    assert (mine / "again.jsonl").is_file()


@pytest.mark.slow
def test_a_new_run_changes_objective_and_seed_behind_what_it_takes_over(copy, door):
    folder = copy.parent / "tiny"
    code, said = door(copy, "rl.optim.lr=0.01")
    assert_refused(code, said, "stages.rl.optim.lr is 0.001 there and 0.01 here", "--as NEWNAME")
    said = ok(door, copy, "--as", "other", "rl.optim.lr=0.01", "seed=3")
    assert "begins with tokenizer, sft of" in said and "seed was 0 and is 3" in said
    assert "rl is done anew: stages.rl.optim.lr was 0.001 and is 0.01" in said
    other = copy.parent / "other"
    assert rows(other, "sft") == rows(folder, "sft") and rows(other) != rows(folder)
    data = "data/problems/*/problems-train*"
    assert [x.read_bytes() for x in other.glob(data)] == [x.read_bytes() for x in folder.glob(data)]
    code, said = door(copy, "--as", "third", "data.train=40")
    assert_refused(code, said, "nothing of", "data.train is 32 there and 40 here", "name=...")
    assert not (copy.parent / "third").exists()
    code, said = door(copy, "name=nobody", "--as", "third")
    assert_refused(code, said, "there is no run", "to begin with")


def test_a_rule_that_has_changed_is_refused_and_a_new_run_takes_it(copy, door, tmp_path):
    rule = tmp_path / "mine.py"
    rule.write_text("def score(completion, record):\n    return float(len(completion) % 2)\n")
    ok(door, copy, "--as", "own", f"rl.reward.rule={rule}", "rl.steps=2")
    rule.write_text("def score(completion, record):\n    return float(len(completion) % 3 == 0)\n")
    words = ["name=own", f"rl.reward.rule={rule}"]
    code, said = door(copy, *words, "rl.steps=4")
    assert_refused(code, said, f"the file {rule} has changed since stage rl of", "--as NEWNAME")
    said = ok(door, copy, *words, "--as", "second", "rl.steps=2")
    assert "rl is done anew: the file" in said and "begins with tokenizer, sft" in said


def test_a_stage_starts_from_a_step_of_another_run(copy, trained, door, tmp_path, monkeypatch):
    """Its random keys are those of its name: from the same model it does the same."""
    alone = [TINY["stages"][2] | {"policy": f"{trained}/tiny:sft@4"}]
    config = write(tmp_path / "new", stages=alone)
    code, said = door(config)
    assert_refused(code, said, "which reads other tokens", "tiny/tokenizer.model")
    token = f"tokenizer={trained}/tiny/tokenizer.model"
    code, said = door(config, token, f"rl.policy={trained}/tiny:sft@3")
    assert_refused(code, said, "has no checkpoint of step 3, only of 2, 4")
    code, said = door(config, token, "model.width=32")
    assert_refused(code, said, "whose width is 16, and model.width is 32")
    said = ok(door, config, token)
    assert "the checkpoint of step 4 is linked into" in said
    assert rows(tmp_path / "new" / "tiny") == rows(trained / "tiny")
    said = ok(door, config, token, "rl.steps=5")
    assert "linked into" not in said and "RESUMING from step 4 of 5" in said


def test_steps_are_listed_and_read_by_commands(copy, capsys, tmp_path):
    reopen(copy)
    folder = copy.parent / "tiny"
    assert convert.main([str(folder)]) == 0
    said = plain(capsys.readouterr().out)
    assert f"{folder}:sft (sft) has finished; @2, @4" in said
    assert f"{folder}:rl (rl) has not finished; @2" in said
    assert convert.main([f"{folder}:rl", str(tmp_path / "x")]) == 2
    assert f"name one of its steps, such as {folder}:rl@2" in plain(capsys.readouterr().err)
    assert convert.main([f"{folder}:rl@2", str(tmp_path / "x")]) == 0
    assert (tmp_path / "x" / "model.safetensors").exists()
    capsys.readouterr()
    words = ["--prompt", "1 + 1", "--tokens", "3", "--model"]
    assert generate.main([*words, f"{folder}:rl@2"]) == 0
    of_run = capsys.readouterr().out
    assert generate.main([*words, str(tmp_path / "x")]) == 0
    assert capsys.readouterr().out == of_run != ""
    assert generate.main([*words, f"{folder}:rl@9"]) == 2
    assert "has no checkpoint of step 9, only of 2" in plain(capsys.readouterr().err)
