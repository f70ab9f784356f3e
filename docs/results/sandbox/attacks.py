"""Programs that attack, each followed by a right one: `python docs/results/sandbox/attacks.py`."""

import platform
import subprocess
import time
from pathlib import Path

from rlvr_jax.host.rules import programs
from rlvr_jax.host.workers import sandbox

RIGHT = "```python\ndef add(a, b):\n    return a + b\n```"
TESTS = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]
LIMITS = sandbox.Limits(seconds=2.0)
FORKS = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
ATTACKS = {
    "fork bomb": FORKS,
    "memory: 10 GB": "x = 'a' * 10**10",
    "infinite loop": "while True: pass",
    "sleep": "import time; time.sleep(99)",
    "network": "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
    "reads the file of its tests": "print(open('{secret}').read())",
    "writes outside its folder": "open('/usr/lib/new', 'w').write('x')",
    "a file of 100 MB": "open('big', 'w').write('x' * 10**8)",
    "kills its parent and everybody": "import os; os.kill(os.getppid(), 9); os.kill(-1, 9)",
    "prints 1 GB": "while True: print('x' * 10**6)",
    "leaves a daemon": "import os\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True: pass",
    "leaves zombies": "import os, time\nwhile os.fork(): time.sleep(0.3)\nos._exit(0)",
    "closes its outputs, runs on": "import os\nos.close(1); os.close(2)\nwhile True: pass",
    "recursion without end": "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "exits 0 before the tests": "import os; os._exit(0)",
}


def reward(completion: str) -> float:
    """Return the score of a completion; a program that reaches its time limit has 0."""
    try:
        return programs.score(completion, TESTS, LIMITS)
    except TimeoutError:
        return 0.0


def left() -> int:
    """Processes of programs, half a second later: the kernel may still be ending them."""
    time.sleep(0.5)
    shown = subprocess.run(["ps", "-wweo", "args="], capture_output=True, text=True).stdout
    return sum("program.py" in row for row in shown.splitlines())


def main() -> None:
    secret = Path(__file__).with_suffix(".secret")
    secret.write_text("expected")
    print(f"walls: {sandbox.walls()}; Python {platform.python_version()}\n")
    print("| attack | ends as | seconds | says | reward | left running | the next, right one |")
    print("|---|---|---|---|---|---|---|")
    for name, source in ATTACKS.items():
        source = source.replace("{secret}", str(secret))
        began = time.monotonic()
        result = sandbox.run(source, "", LIMITS)
        seconds = time.monotonic() - began
        score = reward(f"```python\n{source}\n```")
        cells = (
            name,
            result.status,
            f"{seconds:.1f}",
            f"{len(result.output)} bytes",
            score,
            left(),
        )
        print("|", *(f"{cell} |" for cell in cells), programs.score(RIGHT, TESTS), "|", flush=True)
    secret.unlink()


if __name__ == "__main__":
    main()
