"""The report page: complete, self-contained, and indifferent to hostile or damaged run folders."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from make_report import ATTACK, Page, fake_run

from rlvr_jax.host.report import command, page, run_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo")


def test_page_holds_the_run(run: Path) -> None:
    path = command.write_report(run)
    assert path == run / "report.html"
    found = Page(path)
    data = found.data
    assert data["name"] == "demo"
    assert found.title.startswith("demo ")
    assert [stage["name"] for stage in data["stages"]] == ["sft", "verifier", "rl"]
    rl = data["stages"][2]
    assert rl["step"] == list(range(1, 241))
    assert rl["nonfinite"] == {"policy/grad_norm": 1}
    assert "hack/alarm_length" in rl["series"]
    assert [e["name"] for e in data["evals"]] == ["before RL", "halfway", "after RL"]
    assert [f["step"] for f in data["sets"]] == list(range(30, 241, 30))
    assert len(found.sets) == len(data["sets"])
    assert {(f["total"], f["kept"]) for f in data["sets"]} == {(48, 48)}
    first = found.sets[0][0]["rollouts"][0]
    assert "text" not in first  # the pieces spell it
    assert "hunter2" not in found.text
    assert "api_key: (hidden)" in data["config"]
    assert not list(run.glob("*.part"))


def test_same_run_same_page(run: Path) -> None:
    first = command.write_report(run).read_bytes()
    assert command.write_report(run).read_bytes() == first


def test_page_is_self_contained(run: Path) -> None:
    found = Page(command.write_report(run))
    for tag, attrs in found.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href", "srcset"} & attrs.keys()
    assert set(re.findall(r"https?://[^\"'\s]+", found.text)) == {"http://www.w3.org/2000/svg"}
    script = found.scripts[-1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|@import|url\(", found.text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / 'a"><script>&%%DATA%%', steps=16)
    row = {key: ATTACK for key in ("domain", "question", "reference", "response", "prompt")}
    row |= {"step": 99, "reward": 1.0, "parts": {ATTACK: 0.5}}
    row |= {"pieces": [ATTACK, "%%SCRIPT%%"], "piece_values": [1, 2]}
    (run / "samples" / "rl_step_000099.jsonl").write_text(json.dumps(row))
    (run / "eval" / "x.json").write_text(json.dumps({"name": ATTACK, "accuracy": {ATTACK: 0.5}}))
    (run / "config.resolved.yaml").write_text("name: </script><script>alert(2)</script>")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": ATTACK, "step": 1, ATTACK: 0.5}) + "\n")
    found = Page(command.write_report(run))
    assert [tag for tag, _ in found.tags].count("script") == 2 + len(found.sets)
    assert "img" not in [tag for tag, _ in found.tags]
    assert not any("<" in block for block in found.scripts[:-1])
    assert found.title.startswith('a"><script>&%%DATA%% ')
    (shown,) = found.sets[-1]
    assert shown["question"] == shown["prompt"] == ATTACK
    assert shown["rollouts"][0]["pieces"] == [ATTACK, "%%SCRIPT%%"]
    assert ATTACK in found.data["stages"][-1]["series"]


@pytest.mark.parametrize(
    ("text", "remarks"),
    [
        (json.dumps(["all rewards are equal", ATTACK]), ["all rewards are equal", ATTACK]),
        (json.dumps(["x" * 9000, 3, None]), ["x" * 8000, "3", ""]),
        (json.dumps(["x"] * 99), ["x"] * 50),
        *((text, []) for text in ("", "{", "{}", "3", "[" * 5000)),
    ],
)
def test_what_the_run_said_stands_in_the_page(tmp_path, text, remarks):
    run = fake_run(tmp_path / "demo", steps=16)
    (run / "remarks.json").write_text(text)
    found = Page(command.write_report(run))
    assert found.data["remarks"] == remarks
    said = [entry["text"] for entry in found.data["attention"] if "key" not in entry]
    assert said[: len(remarks)] == remarks
    assert "img" not in [tag for tag, _ in found.tags]


def test_many_rollouts_lie_beside_the_page(tmp_path, monkeypatch):
    run = fake_run(tmp_path / "demo", steps=32)
    whole = Page(command.write_report(run))
    monkeypatch.setattr(page, "MAX_BYTES", 60_000)
    beside = run / "report_rollouts"
    found = Page(command.write_report(run))
    assert found.sets == []
    files = [head["file"] for head in found.data["sets"]]
    assert files == [f"report_rollouts/{i}.js" for i in range(len(whole.sets))]
    assert len(found.text) < len(whole.text) - 60_000
    for i, name in enumerate(files):
        text = (run / name).read_text()
        head, tail = f"receiveSet({i}, ", ");\n"
        assert text.startswith(head) and text.endswith(tail) and "<" not in text
        assert json.loads(text[len(head) : -len(tail)]) == whole.sets[i]
    (beside / "99.js").write_text("old")
    (beside / "mine.txt").write_text("kept")
    command.write_report(run)
    assert not (beside / "99.js").exists() and (beside / "mine.txt").exists()
    policy = next(a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a)
    assert " 'self';" in str(policy)
    monkeypatch.setattr(page, "MAX_BYTES", 10**9)
    command.write_report(run)
    assert (beside / "mine.txt").exists() and not list(beside.glob("*.js"))


def test_a_set_is_never_larger_than_a_page(monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    problems = [{"question": "x" * 90, "rollouts": [{"text": str(i)}]} for i in range(64)]
    kept = page.fitting(problems)
    assert kept == problems[: len(kept)] and 0 < len(kept) < 64
    assert len(page.embed(kept)) <= 1000
    assert page.fitting([{"question": "x" * 2000, "rollouts": []}]) == []


def test_how_far_a_run_is():
    planned = run_data.planned_stages("stages:\n- stage: rl\n  name: rl\n  steps: 1500\n")
    assert run_data.state([], planned, set()) == {"done": False, "text": "no metrics yet"}
    stage = {"name": "rl", "step": [1, 40]}
    text = run_data.state([stage], planned, set())["text"]
    assert text == "not finished: stage rl, step 40 of 1,500"
    assert run_data.state([stage], planned, {"rl"}) == {"done": True, "text": "finished"}
    assert run_data.state([stage], {}, set())["text"] == "stage rl, step 40"


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "stages: 3", "stages: [1, {}]", "\x00", None])
def test_a_damaged_config_plans_nothing(text):
    assert all(isinstance(stage, dict) for stage in run_data.planned_stages(text).values())


def test_a_stage_is_known_by_its_type(tmp_path: Path) -> None:
    (tmp_path / "config.resolved.yaml").write_text(
        "stages:\n- {stage: rl, name: learn, steps: 2}\n"
    )
    rows = [{"stage": "learn", "step": i, "reward/mean": i / 4} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = run_data.load_run(tmp_path)
    assert [stage["type"] for stage in data["stages"]] == ["rl"]
    assert data["tiles"][0][:2] == ["Reward", "0.5"]
    assert data["learned"][0].startswith("learn: the mean reward went from 0.25 to 0.5 in 2 steps")


def test_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert command.main([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err == f"error: no run folder at {tmp_path / 'missing'}\n"
    assert command.main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlvr_jax.report", "/nowhere"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: no run folder at /nowhere\n")
