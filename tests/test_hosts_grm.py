"""Two processes judge, vote and learn to judge as one does; the policy is an adapter.

An objective, an estimator and a rule are files of the user's own.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from make_hosts import (
    Job,
    assert_close,
    assert_same_learned,
    assert_same_rows,
    assert_same_samples,
    assert_same_steps,
    files,
    restored,
    run_beside,
    write,
)

from rlvr_jax import adapters

CONFIG = Path(__file__).with_name("hosts_grm.yaml")
BEFORE = 3  # stages that one process does before the test
MORE = 2  # steps of the last one of them, that both runs add
# Files of the user's own; an answer is right by the sum of its bytes, as half of all are.
OWN = {
    "objective.py": """
import jax.numpy as jnp

def objective(tokens, cfg):
    ratio_BR = jnp.exp(tokens.logprob_BR - tokens.behaviour_BR)
    return jnp.minimum(ratio_BR, 1.0) * tokens.advantage_BR
""",
    "estimator.py": """
import jax.numpy as jnp

def advantages(reward_QG, length_QG, counted_Q):
    return reward_QG - jnp.mean(reward_QG, 1, keepdims=True)
""",
    "rule.py": """
def score(completion, record):
    return float(sum(completion.encode()) % 2)
""",
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> tuple[Job, Job, list[str]]:
    """One process with 4 devices and two with 2 each go on with what one with 2 devices began.

    Both runs are new ones that begin with the finished stages of another (`--as`), the last of
    which takes more steps.
    """
    tree = yaml.safe_load(CONFIG.read_text())
    home = tmp_path_factory.mktemp("grm")
    own = {name: home / name for name in OWN}
    for name, text in OWN.items():
        own[name].write_text(text)
    stages = {stage.get("name", stage["stage"]): stage for stage in tree["stages"]}
    stages["votes"]["loss"] = {"objective": str(own["objective.py"])}
    stages["votes"]["advantage"]["baseline"] = str(own["estimator.py"])
    stages["answers"]["rule"] = str(own["rule.py"])
    config = write(home / "hosts_grm.yaml", tree)
    jobs = [Job(tmp_path_factory.mktemp(name), config) for name in ("one", "two")]
    begun = tree | {"name": "begun", "mesh": {"fsdp": 2}, "stages": tree["stages"][:BEFORE]}
    Job(jobs[0].runs, write(home / "begun.yaml", begun)).run(1)
    shutil.copytree(jobs[0].runs / "begun", jobs[1].runs / "begun")
    words = ["name=begun", "--as", "hosts", f"sft.steps={begun['stages'][-1]['steps'] + MORE}"]
    one, two = jobs
    return one, two, run_beside(one, two, *words)


def test_two_processes_log_what_one_does(both):
    one, two, _ = both
    mine = one.rows()
    assert_same_steps(mine, two.rows())
    learned = {row["stage"]: row for row in mine}
    assert list(learned) == ["cold", "sft", "votes", "meta", "judge", "scalar"]
    for stage in ("votes", "judge"):
        assert 0 < learned[stage]["reward/mean"] < 1 and learned[stage]["grm/valid_frac"] > 0


def test_one_stage_goes_on_under_another_number_of_steps(both):
    _, two, said = both
    told = "sft goes on from its checkpoint of step 60"
    assert told in said[0] and "RESUMING from step 60 of 62" in said[0] and told not in said[1]
    assert [row["step"] for row in two.rows("sft")] == list(range(1, 63))


def test_two_processes_leave_the_same_files(both):
    one, two, _ = both
    assert assert_same_samples(one.folder, two.folder) == {"votes", "judge"}
    patterns = ("judgements/*", "items/*", "tokenizer.model")
    mine = files(one.folder, *patterns)
    assert len(mine) == 3 and mine == files(two.folder, *patterns)
    assert_same_rows(one.folder, two.folder, "collected")
    for name in ("vote", "of_scalar"):
        pair = [json.loads((job.folder / f"eval/{name}.json").read_text()) for job in (one, two)]
        assert_close(*pair, 1e-5, name)
        assert pair[0]["items"] > 0 and (two.folder / f"eval/{name}.svg").exists()
    stages = [sorted(p.name for p in (job.folder / "stages").iterdir()) for job in (one, two)]
    assert stages[0] == stages[1] and len(stages[0]) == 11
    assert not list(two.folder.glob("**/*.part")) and (two.folder / "report.html").exists()


def test_two_processes_learn_the_same(both):
    one, two, _ = both
    assert_same_learned(one.folder, two.folder, "sft", "votes", "meta", "judge", "scalar")
    assert all(map(adapters.is_part, restored(two.folder, "votes")))
