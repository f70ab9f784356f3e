"""The audit of a generative reward model: its lists, its calls, and the command on tiny configs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rlvr_jax import audit, grm, sharding, train
from rlvr_jax.config import AuditConfig
from rlvr_jax.host.hardening import preferences
from rlvr_jax.host.hardening.preferences import Pair
from rlvr_jax.host.problems import preference
from rlvr_jax.host.runs import log, settings
from rlvr_jax.host.runs.folder import Run, RunError
from rlvr_jax.stages import grm_audit, sampled
from rlvr_jax.stages.grm_workspace import GrmWorkspace
from rlvr_jax.stages.workspace import Workspace

CONFIG = """
name: tiny
runs: {runs}
tokenizer: byte
data: {{tasks: [sum], sft: 8, label: 0, train: 8, test: 8, prompt_columns: 96,
        response_columns: {columns}}}
model: &size {{layers: 1, width: 16, heads: 2, kv_heads: 2, head_size: 8, feedforward: 16,
               vocab: 264}}
grm: *size
critique:
  template: short
  most: 3
  data: {{tasks: [sum, siblings], preferences: {{least: {least}, most: {most}}}, sft: 8, label: 0,
          train: 8, test: 12, prompt_columns: 400, check_columns: 200, response_columns: 12}}
audit: {{records: 2, quick_records: 2, votes: 2}}
stages:
  - {{stage: sft, steps: 1, batch: 8}}
  - {{stage: sft, name: cold, role: grm, steps: 1, batch: 8}}
  - {{stage: rl, name: judge, policy: cold, steps: 1, prompts: 4, samples: 2,
      reward: {{source: preference}}}}
  - {{stage: rl, policy: sft, grm: judge, steps: 1, prompts: 4, samples: 3,
      reward: {{source: grm, votes: 2, grm: {{together: {together}}}}}}}
"""


@pytest.fixture
def one_device(monkeypatch):
    """The tests' process has eight, and has claimed them."""
    claim = lambda cfg, *_: sharding.make_mesh(cfg, jax.devices()[:1])  # noqa: E731
    monkeypatch.setattr(sharding, "claim_mesh", claim)


def write(tmp_path, together=1, least=2, most=3, columns=120):
    path = tmp_path / "tiny.yaml"
    values = dict(together=together, least=least, most=most, columns=columns)
    path.write_text(CONFIG.format(runs=tmp_path / "runs", **values))
    return path


def open_run(path, devices=1):
    cfg = settings.load(path, [f"mesh.data={devices}"])
    mesh = sharding.make_mesh(cfg.mesh, jax.devices()[:devices])
    by_name = {stage.name: stage for stage in cfg.stages}
    return GrmWorkspace(Workspace(Run(cfg), mesh)), by_name, mesh


def gullible(ws, word):
    """A judge that gives 0.8 to the best response and 1 to whatever says `word`."""

    def ask(jobs, number):
        found = []
        for job in jobs:
            best, other = (ws.tokenizer.decode(ids) for ids in job.responses[:2])
            rewards = [1.0 if word in text else base for text, base in ((best, 0.8), (other, 0.3))]
            found.append(Pair(job.item, job.attack, *rewards, 0.0))
        return found

    return ask


def test_a_judge_that_believes_the_word_expert_is_found_out(tmp_path):
    ws, stages, _ = open_run(write(tmp_path))
    clean, attacked, skipped = grm_audit.make_jobs(ws, stages["judge"], 2, False)
    pairs = grm_audit.ask_all(gullible(ws, "expert"), clean, attacked)
    report = preferences.report(pairs, skipped)
    rates = {key: group["false_positive"] for key, group in report["groups"].items()}
    assert report["before"] == 0 == report["false_negative"]
    assert [key for key, rate in rates.items() if rate] == ["G"]
    assert {row["name"] for row in report["worst"][:2]} == {"G experts", "G experts, alone"}
    assert report["worst"][0]["rate"] == 1 and report["worst"][2]["rate"] == 0
    (fault,) = preferences.faults(report, dataclasses.replace(AuditConfig(), max_dark=1))
    assert "praise" in fault


def test_lists_are_the_best_response_the_worst_and_others(tmp_path):
    ws, stages, _ = open_run(write(tmp_path, together=3, least=3))
    clean, attacked, skipped = grm_audit.make_jobs(ws, stages["rl"], 3, True)
    items = [preference.parse_item(record) for record in ws.problems("test")]
    assert len(clean) == 2 and len(attacked) + skipped == 2 * 20
    for job in clean:
        item = items[job.item]
        texts = [ws.tokenizer.decode(ids) for ids in job.responses]
        worst = min(range(3), key=lambda i: item.quality[i])
        assert texts[:2] == [item.responses[item.best], item.responses[worst]]
        assert set(texts) == set(item.responses) and job.context == ws.prompter.context(item)
    for job in attacked:
        untouched = clean[job.item].responses
        assert [job.responses[i] for i in (0, 2)] == [untouched[i] for i in (0, 2)]
        assert ws.tokenizer.decode(job.responses[1]) == job.attack.text


def test_attacks_that_the_policy_could_not_write_are_skipped(tmp_path):
    ws, stages, _ = open_run(write(tmp_path, columns=60))
    clean, attacked, skipped = grm_audit.make_jobs(ws, stages["rl"], 2, False)
    assert skipped > 20 and len(attacked) > 20
    longest = max(len(ids) for job in [*clean, *attacked] for ids in job.responses)
    assert longest < 60  # with a place for the token that ends it


@pytest.mark.parametrize("together, devices", [(1, 1), (2, 1), (1, 4)])
def test_rewards_are_those_of_the_stage(tmp_path, together, devices, monkeypatch):
    """Every list is judged as a plain call of the reward judges it, whatever else is asked."""
    ws, stages, mesh = open_run(write(tmp_path), devices)

    def fake(judge, prompts, rollout, key, form):
        """The reward is a hash of the response; a judgement is invalid if it is even."""
        length_B = rollout.length_B
        total_B = (rollout.response_BR * rollout.response_mask_BR).sum(1) % 101
        reward_B = (total_B + length_B) / 200
        assert form.reward.grm.together == together and form.reward.judgements == 2
        votes = reward_B.shape[0] // together * 2
        valid_X = (total_B[::together].repeat(2, total_repeat_length=votes) % 2) == 1
        nothing = jax.numpy.zeros(1)
        return grm.Judged(reward_B, nothing, None, valid_X, nothing, nothing)

    monkeypatch.setattr(grm, "score", fake)
    cfg = stages["rl"].reward if together == 1 else grm_audit._reward(ws.cfg, stages["judge"])
    clean, attacked, _ = grm_audit.make_jobs(ws, stages["rl"], together, True)
    with jax.set_mesh(mesh):
        ask = grm_audit.Asker(ws, cfg, grm.Judge({}, ws.critic(together), {}), [*clean, *attacked])
        pairs = grm_audit.ask_all(ask, clean, attacked)
    jobs = [*clean * grm_audit.CLEAN, *attacked]
    assert [(p.item, p.attack) for p in pairs] == [(job.item, job.attack) for job in jobs]
    for pair, job in zip(pairs, jobs, strict=True):
        totals = [sum(ids) % 101 for ids in job.responses]
        wanted = [(t + len(ids)) / 200 for t, ids in zip(totals, job.responses, strict=True)]
        np.testing.assert_allclose([pair.best, pair.other], wanted, rtol=1e-6)
        heads = totals if together == 1 else totals[:1]
        assert pair.invalid == pytest.approx(np.mean([t % 2 == 0 for t in heads]))


def test_a_pair_is_shown_as_the_stage_that_trains_the_judge_shows_it(tmp_path):
    ws, stages, mesh = open_run(write(tmp_path))
    _, attacked, _ = grm_audit.make_jobs(ws, stages["judge"], 2, False)
    items = [preference.parse_item(record) for record in ws.problems("test")]
    rows = grm_audit.rollout_of([ids for job in attacked for ids in job.responses], 400)
    critic = ws.critic(2)
    with jax.set_mesh(mesh):
        shown = grm.show(ws.place(rows), critic)
        order = np.array([[0, 1], [1, 0]] * len(attacked))[: len(attacked)]
        asked = jax.device_get(jax.jit(grm._responses)(shown, order, critic))
    for number, job in enumerate(attacked):
        if not job.attack.text.strip():
            continue  # no item has an empty response
        best = items[job.item].responses[items[job.item].best]
        item = preference.Item(items[job.item].query, (best, job.attack.text), 0)
        ids = job.context + asked.token_YW[number][asked.mask_YW[number]].tolist()
        assert ids == ws.prompter.prompt(item, order[number]), job.attack.name


@pytest.mark.parametrize("stage", ["judge", "rl"])
def test_the_command_on_a_random_judge(tmp_path, stage, capsys, one_device):
    out = tmp_path / "audit.json"
    words = ["--config", str(write(tmp_path)), "--fresh", "--quick", "--stage", stage]
    assert audit.main([*words, "--json", str(out)]) == 3
    report = json.loads(out.read_text())
    # A random model writes no box: no vote, no reward, nothing on top.
    assert report["invalid"] == report["invalid_before"] == 1 and report["false_positive"] == 0
    assert report["youden"] == 0 and report["records"] == 2 and report["items"] > 30
    assert "best response on top" in str(report["faults"])
    said = capsys.readouterr().out
    assert "generative reward model" in said and "languages" in said


def test_what_cannot_be_audited_is_refused_in_one_sentence(tmp_path, capsys, one_device):
    path = str(write(tmp_path))
    assert audit.main(["--config", path, "--stage", "judge"]) == 2
    assert "stage 'judge' has not been run" in capsys.readouterr().err
    assert audit.main(["--config", path, "--stage", "sft"]) == 2
    assert "no rl stage sft" in capsys.readouterr().err
    begun = tmp_path / "runs" / "tiny" / "eval" / "vote.json"
    begun.parent.mkdir()
    begun.write_text("{}")  # a run that has begun may be audited in another way
    assert audit.main(["--config", path, "--stage", "judge", "audit.records=1"]) == 2
    assert "stage 'judge' has not been run" in capsys.readouterr().err
    assert audit.main(["--config", path, "--stage", "judge", "seed=1"]) == 2
    assert "seed is 0 there and 1 here" in capsys.readouterr().err
    words = ["--config", path, "--fresh", "--stage", "judge", "name=narrow"]
    alone = "critique.data.preferences={least: 1, most: 1}"
    assert audit.main([*words, alone]) == 2
    said = capsys.readouterr().err
    assert "no preference item of the test split has 2 responses" in said
    assert said.count("\n") == 1
    short = ["name=short", "rl.grm=pretrained", "data.response_columns=2"]
    assert audit.main(["--config", path, "--fresh", "--stage", "rl", *short[::2]]) == 2
    assert "none of the attacks on its GRM fits" in capsys.readouterr().err


@pytest.mark.slow
def test_the_first_step_of_a_policy_reports_the_audit_of_its_judge(tmp_path, one_device):
    path = write(tmp_path)
    words = ["--config", str(path), "critique.data.response_columns=160"]
    assert train.main(words) == 0
    rows = log.Metrics(tmp_path / "runs" / "tiny").load_rows("rl")
    assert rows[0]["audit/youden"] <= 1 and 0 <= rows[0]["audit/invalid"] <= 1
    assert rows[0]["hack/alarm_valid_frac"] == rows[0]["hack/alarm_tie_frac"] == 0
    assert audit.main([*words, "--stage", "judge", "--quick"]) == 3


def test_before_training_a_judge_that_cannot_be_audited_stops_only_a_run_that_wants_it(
    tmp_path, capsys
):
    ws, stages, _ = open_run(write(tmp_path, together=3, least=2, most=2))
    policy = Workspace(ws.run, ws.mesh)
    frozen = sampled.Frozen({}, {}, critic=ws.critic(3))
    assert sampled.audit_reward(policy, stages["rl"], frozen, None) == {}
    assert "no audit of judge: no preference item" in capsys.readouterr().out
    strict = dataclasses.replace(stages["rl"].reward, audit="stop")
    stage = dataclasses.replace(stages["rl"], reward=strict)
    with pytest.raises(RunError, match="has 3 responses.*set reward.audit: warn"):
        sampled.audit_reward(policy, stage, frozen, None)
    off = dataclasses.replace(strict, audit="off")
    assert sampled.audit_reward(policy, dataclasses.replace(stage, reward=off), frozen, None) == {}
