"""A run folder with realistic curves, evaluations and rollouts, and a reader of pages."""

from __future__ import annotations

import html.parser
import json
import math
import random
import re
from pathlib import Path
from typing import Any

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

    @property
    def sets(self) -> list[Any]:
        """The rollouts of each set, by problem."""
        return [json.loads(block) for block in self.scripts[1:-1]]

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
