"""A run that an earlier version left, killed in its rl stage: it opens, goes on, and is evaluated.

tests/golden/old_run.tar.xz is the run folder that the code of 2026-11-29 left after kill -9, and
old_run.json what the same code made of it afterwards.  In its checkpoints the parameters that a
stage trains are named `policy`, also those of a verifier and of a PRM.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import make_command
import numpy as np
import pytest

from rlvr_jax import parameters
from rlvr_jax.host.runs import checkpoint, settings

GOLDEN = Path(__file__).parent / "golden"
WANTED = json.loads((GOLDEN / "old_run.json").read_text())
TIMED = ("time/", "perf/")


@pytest.fixture
def folder(tmp_path) -> Path:
    with tarfile.open(GOLDEN / "old_run.tar.xz") as archive:
        archive.extractall(tmp_path / "runs", filter="data")
    return tmp_path / "runs" / "old"


def rows(folder: Path) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    every = [json.loads(line) for line in lines]
    return [row for row in every if row["stage"] == "rl"]


@pytest.mark.parametrize("stage", ["sft", "verifier", "prm", "rl"])
def test_its_parameters_are_read_under_their_new_name(folder, stage) -> None:
    cfg = settings.load(folder / "config.resolved.yaml").model
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), parameters.abstract(cfg)
    )
    params = checkpoint.restore_params(folder / "checkpoints" / stage, like)
    assert set(params) == set(like) and all(np.isfinite(x).all() for x in params.values())
    assert np.std(params["embed_VD"]) > 0
    if stage == "rl":  # also the PRM beside the policy
        beside = checkpoint.restore_params(folder / "checkpoints" / stage, like, "prm.params")
        assert not np.array_equal(beside["embed_VD"], params["embed_VD"])


def test_its_deviation_is_that_of_its_time(folder) -> None:
    """A run keeps its `ddof`, whose default was 0; a config that does not say so is refused."""
    text = (folder / "config.resolved.yaml").read_text()
    stages = settings.load(folder / "config.resolved.yaml").stages
    assert next(stage for stage in stages if stage.name == "rl").advantage.ddof == 0
    silent = folder.parent / "silent.yaml"
    silent.write_text("".join(x for x in text.splitlines(True) if x.strip() != "ddof: 0"))
    said = settings.difference(text, settings.dump(settings.load(silent)))
    assert said is not None and "advantage.ddof is 0 there and 1 here" in said


def test_it_goes_on_where_it_was_killed(folder) -> None:
    """The same command: finished stages are skipped, and rl goes on from its checkpoint."""
    before = rows(folder)
    assert [row["step"] for row in before] == [1, 2, 3]
    config = folder.parent / "again.yaml"
    config.write_text((folder / "config.resolved.yaml").read_text())
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"]}
    done = subprocess.run(
        [*make_command.train(), "--config", str(config)],
        cwd=folder.parents[1],
        env=env | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path)))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished earlier, skipped") == 5
    after = rows(folder)
    assert [row["step"] for row in after] == [1, 2, 3, 4, 5, 6]
    assert after[:2] == before[:2]  # up to its checkpoint not a byte is computed again
    # The step after the checkpoint starts from the same numbers, but sums have another order.
    assert set(WANTED["rl"][2]) <= set(after[2])
    for name, value in WANTED["rl"][2].items():
        if isinstance(value, str) or name.startswith(("mismatch/", *TIMED)):
            continue
        np.testing.assert_allclose(after[2][name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    numbers = [x for row in after for x in row.values() if isinstance(x, float)]
    assert np.isfinite(numbers).all()
    evaluation = json.loads((folder / "eval" / "after.json").read_text())
    assert set(WANTED["after"]) <= set(evaluation)
    exported = folder.parent / "exported"
    words = [sys.executable, "-m", "rlvr_jax.convert", f"{folder}:rl", str(exported)]
    converted = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    assert converted.returncode == 0, converted.stdout + converted.stderr
    assert (exported / "model.safetensors").exists() and (exported / "config.json").exists()
