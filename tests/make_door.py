"""A process that has jax loaded and trains on command, for tests that start many short runs."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from make_tiny import plain

WORKER = """
import contextlib, io, json, sys, traceback
from rlvr_jax import ragged, train
from rlvr_jax.config import DataConfig
ragged.LEAST = 1024  # as make_command.py has it
for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        try:
            code = train.main(json.loads(line))
        except BaseException:
            code = traceback.format_exc()
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


def environment() -> dict[str, str]:
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["RLVR_TEST_XLA_FLAGS"],
    }


@contextlib.contextmanager
def opened(env: dict[str, str]):
    """Yield ask(config, word, ...) -> exit code and output of `python -m rlvr_jax.train`."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", WORKER]
    worker = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True)

    def ask(config: Path, *overrides: str) -> tuple[int, str]:
        worker.stdin.write(json.dumps(["--config", str(config), *overrides]) + "\n")
        worker.stdin.flush()
        code, said = json.loads(worker.stdout.readline())
        return code, plain(said)

    yield ask
    worker.stdin.close()
    worker.wait()
