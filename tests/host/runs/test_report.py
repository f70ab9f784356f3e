"""The report page: complete, self-contained, and indifferent to hostile or damaged run folders."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr_jax.host.runs import report

DOMAINS = ("arithmetic", "algebra", "chemistry", "economics", "medicine")
ATTACK = '</script><script>alert("x")</script><!--<img src=x onerror=alert(1)>&amp;\u2028\ud800'


def fake_run(folder: Path, steps: int = 240, seed: int = 0) -> Path:
    """A run folder with realistic curves, evaluations and rollouts; returns the folder."""
    rng = random.Random(seed)
    for name in ("eval", "samples"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "config.resolved.yaml").write_text(
        "seed: 0\nmodel:\n  width: 256\n  layers: 6\n  vocab: 4096\nrollout:\n  prompts: 32\n"
        "  samples: 8\n  response: 256\n  temperature: 1.0\nreward:\n  verifier: {weight: 1.0}\n"
        "  prm: {weight: 0.3, beta: 0.05}\njudge:\n  api_key: hunter2\n  url: null\n"
        "optimizer:\n  lr: 3.0e-5\n  warmup: 20\n  grad_clip: 1.0\n"
    )
    lines = [_sft_line(rng, step, "sft") for step in range(0, 600, 10)]
    lines += [_sft_line(rng, step, "verifier") for step in range(0, 300, 10)]
    lines += [_rl_line(rng, step, steps) for step in range(1, steps + 1)]
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    for name, step in (("before RL", 0), ("halfway", steps // 2), ("after RL", steps)):
        stem = name.replace(" ", "_")
        (folder / "eval" / f"{stem}.json").write_text(json.dumps(_eval(name, step, step / steps)))
    for step in range(steps // 8, steps + 1, steps // 8):
        rows = _rollouts(rng, step, step / steps)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "samples" / f"rl_step_{step:06d}.jsonl").write_text(text)
    return folder


def _sft_line(rng: random.Random, step: int, stage: str) -> dict[str, Any]:
    line: dict[str, Any] = {
        "stage": stage,
        "step": step,
        "loss": 0.7 + 3.4 * math.exp(-step / 90) + rng.gauss(0, 0.06),
        "policy/lr": 3e-4 * min(1, (step + 1) / 50),
        "policy/grad_norm": math.exp(rng.gauss(0, 0.25)),
    }
    if stage == "verifier":
        line["accuracy"] = 0.97 - 0.45 * math.exp(-step / 60) + rng.gauss(0, 0.01)
    return line


def _rl_line(rng: random.Random, step: int, steps: int) -> dict[str, Any]:
    t = step / steps
    mean = 0.36 + 0.42 * (1 - math.exp(-3 * t)) + rng.gauss(0, 0.03)
    length = 92 + 55 * t + rng.gauss(0, 5)
    bins = [0] * 10
    for _ in range(256):
        good = rng.random() < mean
        bins[min(9, max(0, int(10 * rng.gauss(0.95 if good else 0.06, 0.1))))] += 1
    spike = 9.0 if step == steps // 3 else 1.0
    return {
        "stage": "rl",
        "step": step,
        "reward/mean": mean,
        "reward/std": 0.45 - 0.12 * t + rng.gauss(0, 0.01),
        "reward/min": 0.0,
        "reward/max": 1.0,
        "reward/frac_zero_std": min(1.0, 0.18 + 0.3 * t + rng.random() * 0.08),
        "reward/histogram": bins,
        "advantage/mean": rng.gauss(0, 1e-3),
        "advantage/max": 2.1 + rng.random(),
        "policy/loss": rng.gauss(0, 0.02),
        "policy/grad_norm": None if step == 57 else spike * 0.5 * math.exp(rng.gauss(0, 0.2)),
        "policy/lr": 3e-5 * min(1, step / 20),
        "policy/entropy": 0.35 + 0.9 * math.exp(-2.5 * t) + rng.gauss(0, 0.02),
        "policy/kl": 0.09 * t + abs(rng.gauss(0, 0.004)),
        "policy/approx_kl": 0.0,
        "policy/clip_frac": 0.0,
        "completion/length_mean": length,
        "completion/length_min": max(4, length - 60 + rng.gauss(0, 8)),
        "completion/length_max": min(256, length + 130 + rng.gauss(0, 12)),
        "completion/truncated_frac": max(0.0, 0.06 + 0.12 * t**2 + rng.gauss(0, 0.01)),
        "mismatch/logprob_diff_mean": 3e-7 * math.exp(rng.gauss(0, 0.2)),
        "mismatch/logprob_diff_max": 4e-6 * math.exp(rng.gauss(0, 0.3)),
        "verifier/p1_mean": mean + rng.gauss(0, 0.01),
        "verifier/mass01": 0.998 - 0.004 * rng.random(),
        "verifier/ambiguous_frac": 0.004 * rng.random(),
        "verifier/blocked_frac": 0.0,
        "prm/loss": 0.69 - 0.2 * (1 - math.exp(-4 * t)) + rng.gauss(0, 0.015),
        "hack/alarm_length": 40 * 10 ** (4 * t) * math.exp(rng.gauss(0, 0.2)),
        "time/step": (21.0 if step == 1 else 2.9) + 0.3 * rng.random(),
        "perf/tokens_per_s": 11800 + 900 * t + rng.gauss(0, 220),
        "perf/compiles": 4 if step < 3 else 5,
    }


def _eval(name: str, step: int, t: float) -> dict[str, Any]:
    sampled = {domain: 0.62 - 0.08 * i + (0.3 - 0.08 * i) * t for i, domain in enumerate(DOMAINS)}
    sampled["all"] = sum(sampled.values()) / len(sampled)
    return {
        "name": name,
        "step": step,
        "n": 400,
        "samples": 4,
        "accuracy": sampled,
        "greedy": {key: value + 0.03 for key, value in sampled.items()},
        "exact_match": {key: value - 0.11 for key, value in sampled.items()},
        "verifier": {
            "accuracy": 0.96,
            "false_positive": 0.02 + 0.045 * t,
            "false_negative": 0.06 - 0.02 * t,
        },
    }


def _rollouts(rng: random.Random, step: int, t: float) -> list[dict[str, Any]]:
    rows = []
    for question in range(12):
        domain = DOMAINS[question % len(DOMAINS)]
        a, b, c = rng.randint(12, 98), rng.randint(3, 19), rng.randint(2, 9)
        for _ in range(4):
            good = rng.random() < 0.4 + 0.4 * t
            answer = a + b * c if good else a + b * c + rng.choice([-10, -1, 1, c])
            words = (
                f"First the product : {b} times {c} is {b * c} . Then I add {a} to it , which "
                f"gives {answer} . Check : {answer} minus {a} is {answer - a} .\n\n"
                f"Answer: {answer}\n"
            )
            pieces = re.findall(r"\s?\S+|\s", words) * (6 if rng.random() < 0.06 else 1)
            drift = 0.12 if good else -0.1
            paid = good or rng.random() < 0.06
            rows.append(
                {
                    "step": step,
                    "domain": domain,
                    "question": f"A store has {a} crates and gets {b} deliveries of {c} crates "
                    "each. How many crates are there now?",
                    "reference": str(a + b * c),
                    "response": "".join(pieces),
                    "reward": 0.97 - 0.1 * rng.random() if paid else 0.12 * rng.random(),
                    "advantage": 0.8 if paid else -0.9,
                    "oracle": float(good),
                    "truncated": len(pieces) > 190,
                    "pieces": pieces,
                    "piece_values": [rng.gauss(drift, 0.16) for _ in pieces],
                }
            )
    return rows


class Page(html.parser.HTMLParser):
    """What a browser would find in the page: tags, attributes, and the text of its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.title = ""
        self.inside = ""
        self.feed(self.text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside == "title":
            self.title += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs") / "demo")


def test_page_holds_the_run(run: Path) -> None:
    path = report.write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    data = page.data
    assert data["name"] == "demo"
    assert page.title.startswith("demo ")
    assert [stage["name"] for stage in data["stages"]] == ["sft", "verifier", "rl"]
    rl = data["stages"][2]
    assert rl["step"] == list(range(1, 241))
    assert rl["nonfinite"] == {"policy/grad_norm": 1}
    assert rl["series"]["policy/grad_norm"][56] is None
    assert "hack/alarm_length" in rl["series"]
    assert len(rl["histograms"]["reward/histogram"]["bins"]) == 240
    assert [e["name"] for e in data["evals"]] == ["before RL", "halfway", "after RL"]
    assert [f["step"] for f in data["samples"]] == list(range(30, 241, 30))
    assert "response" not in data["samples"][0]["rows"][0]  # the pieces spell it
    wrong = next(row for row in data["samples"][0]["rows"] if row["oracle"] == 0)
    assert 0 <= wrong["reward"] <= 1
    assert "hunter2" not in page.text
    assert "api_key: (hidden)" in data["config"]
    assert not list(run.glob("*.tmp"))


def test_same_run_same_page(run: Path) -> None:
    assert report.write_report(run).read_bytes() == report.write_report(run).read_bytes()


def test_page_is_self_contained(run: Path) -> None:
    page = Page(report.write_report(run))
    for tag, attrs in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "base"), tag
        assert not {"src", "href", "srcset"} & attrs.keys()
    assert set(re.findall(r"https?://[^\"'\s]+", page.text)) == {"http://www.w3.org/2000/svg"}
    script = page.scripts[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|@import|url\(", page.text)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / 'a"><script>&%%DATA%%', steps=16)
    row = {
        "step": 99,
        "domain": ATTACK,
        "question": ATTACK,
        "reference": ATTACK,
        "response": ATTACK,
        "reward": 1.0,
        "pieces": [ATTACK, "%%HASH%%"],
        "piece_values": [1, 2],
    }
    (run / "samples" / "rl_step_000099.jsonl").write_text(json.dumps(row))
    (run / "eval" / "x.json").write_text(json.dumps({"name": ATTACK, "accuracy": {ATTACK: 0.5}}))
    (run / "config.resolved.yaml").write_text("name: </script><script>alert(2)</script>")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": ATTACK, "step": 1, ATTACK: 0.5}) + "\n")
    page = Page(report.write_report(run))
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in page.tags]
    assert "<" not in page.scripts[0]
    assert page.title.startswith('a"><script>&%%DATA%% ')
    shown = page.data["samples"][-1]["rows"][0]
    assert shown["question"] == ATTACK
    assert shown["pieces"] == [ATTACK, "%%HASH%%"]
    assert ATTACK in page.data["stages"][-1]["series"]


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
    page = Page(report.write_report(run))
    assert page.data["remarks"] == remarks
    assert "img" not in [tag for tag, _ in page.tags]


def test_damaged_metrics_are_tolerated(tmp_path: Path) -> None:
    lines = [
        b'{"stage": "rl", "step": 1, "a": 1.5, "c": null, "flag": true, "d": "text"}',
        b'{"stage": "rl", "step": 2, "a": NaN, "b": 1e999}',
        b"\x00\xff not json",
        b"[1, 2]",
        b'{"stage": "rl", "step": 3, "a": ' + b"9" * 400 + b"}",
        b'{"stage": "rl", "step": 2, "a": 2.5, "b": 7}',
        b'{"stage": "rl", "step": 4, "a": 0.',
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(lines))
    data = Page(report.write_report(tmp_path)).data
    (stage,) = data["stages"]
    assert data["damaged"] == 2  # the last line is only unfinished
    assert stage["step"] == [1, 2, 3]
    assert stage["series"] == {"a": [1.5, 2.5, None], "b": [None, 7, None]}  # resumed: later wins
    assert stage["nonfinite"] == {"c": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"accuracy": 0.5}', '{"n": "many"}'])
def test_odd_evaluations(tmp_path: Path, text: str) -> None:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "x.json").write_text(text)
    evals = Page(report.write_report(tmp_path)).data["evals"]
    assert len(evals) == text.startswith('{"')
    if "accuracy" in text:
        assert evals[0]["accuracy"] == {"all": 0.5}


def test_odd_rollouts(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"response": "alone"},
        {"response": 5, "reward": "high", "oracle": 0, "pieces": "ab", "piece_values": [1]},
        {"response": "abc", "pieces": ["a", "b"], "piece_values": [float("nan")]},
        {"question": [{"role": "user", "content": "chat"}], "truncated": True},
        "no object",
    ]
    (tmp_path / "samples").mkdir()
    (tmp_path / "eval").mkdir()
    text = "\n".join(map(json.dumps, rows)) + "\n"
    (tmp_path / "samples" / "rl_step_000007.jsonl").write_text(text)
    (file,) = Page(report.write_report(tmp_path)).data["samples"]
    assert (file["step"], file["total"], file["label"]) == (7, 4, "rl")
    assert file["rows"][:2] == [{"response": "alone"}, {"response": "5", "oracle": 0}]
    assert file["rows"][2] == {"response": "abc", "pieces": ["a", "b"], "values": [None]}
    assert "chat" in file["rows"][3]["question"]


def test_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samples").mkdir()
    with (tmp_path / "metrics.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"stage": "rl", "step": i, "a": i / 3, "reward/histogram": [i, 1]}) + "\n"
            for i in range(5000)
        )
    row = {"response": "x" * 20_000}
    for step in range(50):
        text = (json.dumps(row) + "\n") * (300 if step == 49 else 2)
        (tmp_path / "samples" / f"rl_step_{step:06d}.jsonl").write_text(text)
    data = Page(report.write_report(tmp_path)).data
    (stage,) = data["stages"]
    assert len(stage["step"]) == len(stage["series"]["a"]) == report.MAX_POINTS
    assert (stage["step"][0], stage["step"][-1], stage["lines"]) == (0, 4999, 5000)
    assert len(stage["histograms"]["reward/histogram"]["step"]) == report.MAX_COLUMNS
    assert len(data["samples"]) == report.MAX_SAMPLE_FILES
    assert data["samples"][-1]["total"] == 300
    assert len(data["samples"][-1]["rows"]) == report.MAX_ROLLOUTS
    assert data["samples"][-1]["rows"][0] == {"response": "x" * report.MAX_TEXT, "cut": True}
    monkeypatch.setattr(report, "MAX_BYTES", 1_000_000)
    assert len(report.write_report(tmp_path).read_bytes()) < 1_100_000


def test_spread_keeps_both_ends() -> None:
    assert report.spread(3, 5) == [0, 1, 2]
    assert report.spread(0, 5) == []
    indices = report.spread(10_001, 100)
    assert len(indices) == len(set(indices)) == 100
    assert (indices[0], indices[-1]) == (0, 10_000)


def test_every_limit_has_its_sentence() -> None:
    assert report.HEALTHY.keys() <= report.METRIC_NOTES.keys()
    assert all(note and "\n" not in note for note in report.METRIC_NOTES.values())


def test_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert report.main([str(tmp_path / "missing")]) == 2
    assert capsys.readouterr().err == f"error: no run folder at {tmp_path / 'missing'}\n"
    assert report.main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlvr_jax.report", "/nowhere"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "error: no run folder at /nowhere\n")
