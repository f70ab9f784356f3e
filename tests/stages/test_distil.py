"""A verifier distilled as in the paper, all of it small: explore, judge, learn, and rl without
the problems that were judged.  The judge is an endpoint on this machine.
"""

import http.server
import json
import subprocess
import sys
import threading
import zlib

import pytest
import yaml

pytest.importorskip("reasoning_gym")

SIZE = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 2, "head_size": 4, "feedforward": 32}
EXPLORE = {
    **{"stage": "rl", "name": "explore", "reward": {"source": "rule"}, "collect": 0.8},
    **{"steps": 4, "prompts": 8, "samples": 2, "save_every": 1, "optim": {"lr": 1.0e-3}},
}
VERIFIER = {
    **{"stage": "verifier", "steps": 4, "batch": 8, "held_out": 8, "balance": "up"},
    "negatives": {"keys": 0.3, "cuts": 0.1, "near_misses": 0.3, "strangers": 0.1},
}


class Handler(http.server.BaseHTTPRequestHandler):
    """An opinion on everything, always the same."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        said = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        told = {"choices": [{"message": {"content": "YES" if zlib.crc32(said) % 3 else "NO"}}]}
        data = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run_train(path):
    command = [sys.executable, "-m", "rlvr_jax.train", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow  # three programs to compile
def test_explore_judge_learn_and_train(server, tmp_path):
    judge = {"kind": "endpoint", "url": f"http://127.0.0.1:{server.server_port}/v1"}
    judge |= {"model": "big", "key_env": ""}
    other = judge | {"model": "bigger"}
    config = {
        "name": "distil",
        "runs": str(tmp_path),
        "data": {
            **{"tasks": ["sum"], "sft": 64, "label": 0, "train": 48, "test": 8},
            **{"prompt_columns": 40, "response_columns": 32, "check_columns": 64},
        },
        "model": SIZE | {"vocab": 320},
        "verifier": SIZE | {"vocab": 320},
        "stages": [
            {"stage": "tokenizer"},
            {"stage": "sft", "steps": 60, "batch": 16, "optim": {"lr": 1.0e-2}},
            EXPLORE,
            {"stage": "label", "answers": "explore", "judge": judge},
            {"stage": "label", "name": "second", "answers": "label", "judge": other},
            VERIFIER,
            {"stage": "rl", "steps": 1, "prompts": 4, "samples": 2, "reward": {"min_mass": 0}},
        ],
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    code, said = run_train(path)
    assert code == 0, said
    run = tmp_path / config["name"]
    collected, verdicts = (
        lines(run / "collected/explore.jsonl"),
        lines(run / "verdicts/label.jsonl"),
    )
    assert 0 < len(verdicts) <= len(collected) <= 4 * 8 * 2
    marker = json.loads((run / "stages/label.json").read_text())
    assert marker["unread"] == 0 and 0 < marker["requests"] <= len(collected)
    assert -1 <= json.loads((run / "stages/second.json").read_text())["kappa_label"] < 1
    result = json.loads((run / "stages/verifier.json").read_text())
    assert result["learnt_accepted"] == 0.5 and result["held_out"] == 8
    assert {"accuracy", "f1", "kappa", "ece", "false_positive"} <= result.keys()
    logged = [row for row in lines(run / "metrics.jsonl") if row["stage"] == "verifier"]
    assert logged[-1]["verifier/kappa"] == result["kappa"] and "verifier/ece" not in logged[0]
    judged = {row["problem"] for row in verdicts}
    left = json.loads((run / "stages/rl.json").read_text())["problems"]
    assert left == 48 - len(judged)
    asked = server.asked
    (run / "stages/label.json").unlink()
    before = (run / "verdicts/label.jsonl").read_bytes()
    code, said = run_train(path)
    assert code == 0, said
    assert server.asked == asked, "every reply was kept"
    assert (run / "verdicts/label.jsonl").read_bytes() == before
