"""The verifier of a finished run as an OpenAI-compatible judge: `python judge.py CONFIG NAME PORT`.

NAME is the run's; it answers YES where p(1) / (p(1) + p(0)) is at least 0.5, from the reference and
the final step of the judge's prompt (`rlvr_jax/host/verdicts/judge/words.py`).
"""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np

from rlvr_jax import judging, sharding
from rlvr_jax.config import RlStage
from rlvr_jax.host.runs import settings
from rlvr_jax.host.runs.folder import Run
from rlvr_jax.stages import audit
from rlvr_jax.stages.workspace import Workspace
from rlvr_jax.structs import Rollout

ASKED = re.compile(r"\nReference: (.*)\nFinal step: (.*)", re.S)
LOCK = threading.Lock()


def main(config: str, name: str, port: str) -> None:
    cfg = settings.load(config, [f"name={name}"])
    mesh = sharding.make_mesh(cfg.mesh)
    stage = RlStage()  # its reward: soft, of stage `verifier`
    with jax.set_mesh(mesh):
        ws = Workspace(Run(cfg), mesh)
        frozen = audit.load_frozen(ws, stage)
        read = jax.jit(lambda *a: judging.verify(*a, stage.reward, cfg.verifier)[0])

        def accepts(reference: str, answer: str) -> bool:
            ids = ws.tokenizer.encode(answer)[: cfg.data.response_columns]
            row = np.zeros((1, cfg.data.response_columns), np.int32)
            row[0, : len(ids)] = ids
            one, nothing = np.ones((1, 1), np.int32), np.zeros(row.shape, np.float32)
            length, cut = np.array([len(ids)], np.int32), np.zeros(1, bool)
            rollout = Rollout(one, one > 0, row, length, cut, nothing)
            record = {"question": "", "reference": reference, "demonstration": "", "key": ""}
            with LOCK, jax.set_mesh(mesh):
                prompts = ws.columns([record])
                return bool(read(frozen, prompts, rollout)[0] >= 0.5)

        accepts("12", "12")
        handler = type("Handler", (Judge,), {"accepts": staticmethod(accepts)})
        print("ready", flush=True)
        ThreadingHTTPServer(("127.0.0.1", int(port)), handler).serve_forever()


class Judge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reference, answer = ASKED.search(asked["messages"][-1]["content"]).groups()
        word = "YES" if self.accepts(reference, answer) else "NO"
        said = {"choices": [{"message": {"content": word}, "finish_reason": "stop"}]}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
