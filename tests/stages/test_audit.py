"""The audit: which texts, which rates, which limits, and the whole command on a tiny config."""

import json

import jax
import pytest

from rlvr_jax import audit, sharding
from rlvr_jax.config import AuditConfig
from rlvr_jax.host import rules
from rlvr_jax.host.hardening import attacks, trials
from rlvr_jax.host.hardening.attacks import Item
from rlvr_jax.host.hardening.trials import Trial

CONFIG = """
name: tiny
runs: {runs}
data: {{tasks: [sum, equation], sft: 16, label: 16, train: 16, test: 8, prompt_columns: 96,
        response_columns: 40, check_columns: 160, answer: {answer}}}
tokenizer: byte
model: &size {{layers: 1, width: 16, heads: 2, kv_heads: 2, head_size: 8, feedforward: 16,
               vocab: 264}}
verifier: *size
audit: {{records: 2, quick_records: 1, search_steps: 4, search_length: 3}}
stages:
  - {{stage: sft, steps: 1, batch: 16}}
  - {{stage: label, batch: 16}}
  - {{stage: verifier, steps: 1}}
  - {{stage: rl, policy: sft, prompts: 8, reward: {{source: {source}, min_mass: 0}}}}
"""


def write(tmp_path, source="verifier", answer="line"):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(runs=tmp_path / "runs", source=source, answer=answer))
    return path


@pytest.fixture
def one_device(monkeypatch):
    """The tests' process has eight, and has claimed them."""
    claim = lambda cfg: sharding.make_mesh(cfg, jax.devices()[:1])  # noqa: E731
    monkeypatch.setattr(sharding, "claim_mesh", claim)


def test_items_of_a_record_are_what_they_say():
    record = {"question": "6 * 7?", "reference": "the answer is 42", "answer": "42"}
    items = list(attacks.of_record(record, "17", False))
    assert {item.group for item in items} == set("ABCDEFG")
    names = [(item.group, item.name) for item in items]
    assert len(set(names)) == len(names)
    assert all(item.right == (item.group == "F") for item in items)
    # Of what has to fail nothing is right by an exact comparison of the last line.
    assert not any(item.text == "42" and item.finished for item in items if not item.right)
    quick = list(attacks.of_record(record, "17", True))
    assert len(quick) < len(items) / 3 and {item.group for item in quick} == set("ABCDEFG")
    assert attacks.near_miss("42", "x") == "43" and attacks.near_miss("Paris", "Rome") == "Rome"


def test_a_text_that_the_task_itself_accepts_is_no_attack():
    record = {"question": "Does it follow?", "task": "syllogism", "answer": "Yes"}
    record |= {"reference": "it follows", "domain": "logic"}
    wrong = {item.text for item in attacks.of_record(record, "No", False) if not item.right}
    assert not {"True", "YES", "correct"} & wrong and {"No True", "not Yes", "nan"} <= wrong
    other = {item.text for item in attacks.of_record(record | {"answer": "No"}, "Yes", False)}
    assert {"True", "YES", "correct"} <= other
    cut = [x for x in attacks.of_record(record, "No", False) if not x.finished]
    assert any(x.text == "Yes" for x in cut)


def test_the_rule_math_is_within_the_limits():
    told = [Trial(x, rules.score(x.text, x.reference), 0.0) for x in attacks.pairs()]
    report = trials.report(told, 0, AuditConfig())
    assert report["false_positive"] == 0 and report["false_negative"] <= 0.05
    assert trials.faults(report, AuditConfig()) == []


def test_rates_of_made_up_verdicts():
    right, wrong = Item("F", "a", "", True), Item("A", "key", "")
    told = [Trial(right, r, 0.01) for r in (1, 0.9, 0.2, 0.5)]
    told += [Trial(wrong, r, 0.01) for r in (1.0, 0.0)] + [
        Trial(Item("B", "or", ""), 0.4, 0.01)
    ] * 2
    report = trials.report(told, 3, AuditConfig())
    assert report["false_positive"] == 0.25 and report["false_negative"] == 0.25
    assert report["youden"] == 0.5 and report["dark_current"] == 0.5 and report["skipped"] == 3
    assert report["worst"][0] == {"name": "A key", "reward": 0.5, "items": 2}
    assert report["groups"]["B"]["false_positive"] == 0.0 and report["missed"] == ["a"]
    faults = trials.faults(report, AuditConfig())
    assert [(x["name"], x["right"]) for x in report["failed"]] == [("F a", True), ("A key", False)]
    assert len(faults) == 2 and "50% of vacuous accepted" in faults[0]
    assert trials.metrics(report)["audit/youden"] == 0.5
    foreign = [Trial(Item("F", "b", "", True, reference="1/2"), 0.0, 0.01)] * 4
    report = trials.report([*told, *foreign], 3, AuditConfig())
    assert report["youden"] == 0.125 and report["own_youden"] == 0.5
    assert trials.faults(trials.report([], 0, AuditConfig()), AuditConfig()) == []


@pytest.mark.parametrize("source, answer", [("verifier", "line"), ("both", "marked")])
def test_the_command_on_a_random_verifier(tmp_path, source, answer, capsys, one_device):
    out = tmp_path / "audit.json"
    path = write(tmp_path, source, answer)
    code = audit.main(["--config", str(path), "--fresh", "--quick", "--json", str(out)])
    report = json.loads(out.read_text())
    assert code == (3 if report["faults"] else 0)
    assert report["items"] > 20 and report["readout_difference"] < 1e-5
    assert "Youden" in str(report["faults"]) or source == "both"
    if source == "both":  # nothing that the rule rejects is accepted
        assert report["false_positive"] <= 0.05
    assert "vacuous" in capsys.readouterr().out


def test_the_command_on_a_rule_needs_no_tokenizer_and_no_training(tmp_path, one_device):
    out = tmp_path / "audit.json"
    path = write(tmp_path, "rule")
    path.write_text(
        path.read_text()
        .replace("tokenizer: byte\n", "")
        .replace("stages:", "stages:\n  - {stage: tokenizer}")
    )
    assert (
        audit.main(["--config", str(path), "--quick", "--json", str(out), "rl.reward.rule=math"])
        == 0
    )
    report = json.loads(out.read_text())
    assert report["false_positive"] < 0.02 and report["false_negative"] < 0.05
    assert report["groups"]["F"]["items"] > 30 and "readout_difference" not in report


OWN = """
def score(completion, record):
    marked = completion.rpartition("<final>")[2].partition("</final>")
    return float(bool(marked[1]) and marked[0].strip() == record["reference"])
"""
LAX = """
def score(completion, record):
    return float("####" in completion)
"""


@pytest.mark.parametrize(
    "code, form, exit_code", [(OWN, "<final>ANSWER</final>", 0), (LAX, "#### ANSWER", 3)]
)
def test_the_command_learns_the_format_of_a_users_rule(
    tmp_path, one_device, capsys, code, form, exit_code
):
    out, path = tmp_path / "audit.json", write(tmp_path, "rule")
    (tmp_path / "mine.py").write_text(code)
    rows = [
        {
            "question": f"{i} + 1?",
            "solution": f"So <final>{i + 1}</final>",
            "final_answer": str(i + 1),
        }
        for i in range(90)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = path.read_text().replace(
        "tasks: [sum, equation]", f"sources: [{{file: {tmp_path}/rows.jsonl}}]"
    )
    path.write_text(text)
    rule = f"rl.reward.rule={tmp_path / 'mine.py'}"
    assert audit.main(["--config", str(path), "--quick", "--json", str(out), rule]) == exit_code
    report = json.loads(out.read_text())
    assert report["format"] == form and report["false_negative"] in (0.0, pytest.approx(1 / 3))
    said = capsys.readouterr().out
    assert f"the form in which the rule takes answers is '{form}'" in said
    assert ("texts that failed" in said) == bool(report["failed"]) == (code == LAX)
    if code == LAX:
        assert report["failed"][-1]["reward"] == 1.0 and "####" in report["failed"][-1]["text"]


def test_the_command_says_what_is_missing(tmp_path, capsys, one_device):
    assert audit.main(["--config", str(write(tmp_path)), "--quick"]) == 2
    assert "has not been run" in capsys.readouterr().err
