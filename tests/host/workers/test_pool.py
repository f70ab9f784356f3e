"""Workers: order, limits, kills and what they leave behind; the same scores however many."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from rlvr_jax.host.rules import jobs
from rlvr_jax.host.workers import pool, processor_time

RULE = """
import os, sys, time
def score(completion, record):
    print("noise")
    if completion == "hang":
        while True: pass
    if completion == "sleep":
        time.sleep(60)
    if completion == "memory":
        return len(bytearray(10**11))
    if completion == "exit":
        os._exit(3)
    if completion == "quit":
        sys.exit(3)
    if completion == "kill":
        os.kill(os.getpid(), 9)
    if completion == "spawn":
        import subprocess
        subprocess.Popen(["sleep", "61.25"])
        time.sleep(60)
    if completion == "raise":
        raise RuntimeError
    if completion == "nan":
        return float("nan")
    if completion == "two":
        return 2.0
    return float(completion)
"""
ATTACKS = ["hang", "sleep", "memory", "exit", "quit", "kill", "raise", "nan", "two", "spawn"]
HOSTILE = [
    *("9^9^9^9", "10000000!", "(" * 4000 + "7", r"\int_0^1 e^{\sin(x^x)} dx", "9" * 200_000),
    *("(x+y+z+w)^300", r"\sum_{n=1}^{1000000000} \sin n", r"\boxed{" * 3000, "((9!)!)!"),
    *("+".join(["x"] * 20_000), "__import__('os')._exit(0)", r"\zeta(3)^{x}"),
]


@pytest.fixture
def rule(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(RULE)
    return str(path)


def own(rule, texts):
    return jobs.grading_jobs(texts, [{}] * len(texts), rule)


def maths(texts, gold="42"):
    return jobs.grading_jobs(texts, [{"reference": gold}] * len(texts), "math")


def children():
    found = subprocess.run(["ps", "-wweo", "ppid=,stat=,args="], capture_output=True, text=True)
    rows = [row.split(None, 2) for row in found.stdout.splitlines()]
    return [row for row in rows if row[0] == str(os.getpid()) and "ps -wweo" not in row[2]]


def test_order_and_status(rule):
    with pool.Pool(2, seconds=20) as workers:
        results = workers.map(own(rule, ["0.5", "raise", "1", "0"] * 3))
        assert [r.score for r in results] == [0.5, 0.0, 1.0, 0.0] * 3
        assert [r.status for r in results] == ["ok", "error", "ok", "ok"] * 3
        assert workers.map([]) == []
        assert workers.counts == {"ok": 9, "error": 3}


def test_attacks_cost_themselves_only(rule):
    before = children()
    with pool.Pool(2, seconds=0.3) as workers:
        results = workers.map(own(rule, [*ATTACKS, "1"]))
        assert [r.score for r in results] == [0.0] * len(ATTACKS) + [1.0]
        states = dict(zip(ATTACKS, [r.status for r in results], strict=False))
        assert [states[a] for a in ("hang", "sleep", "spawn")] == ["timeout"] * 3
        assert {states[a] for a in ATTACKS} == {"timeout", "crash", "error"}
        assert [states[a] for a in ("memory", "exit", "kill")] == ["crash"] * 3
        assert [states[a] for a in ("quit", "raise")] == ["error"] * 2
        assert jobs.status_metrics(results)["rule/timeout"] == pytest.approx(3 / 11)
        folders = [worker.folder for worker in workers._workers]
    assert children() == before  # no zombie, no orphan
    assert not any(map(os.path.exists, folders))
    left = subprocess.run(["ps", "-wweo", "args="], capture_output=True, text=True).stdout
    assert "sleep 61.25" not in left


def test_no_answer_is_counted():
    with pool.Pool(1, seconds=20) as workers:
        results = workers.map(maths(["", "42", r"\boxed{4"]))
    assert [r.status for r in results] == ["none", "ok", "none"]
    assert jobs.status_metrics(results) == {
        **{"rule/no_answer": pytest.approx(2 / 3), "rule/timeout": 0.0, "rule/crash": 0.0}
    }


@pytest.mark.parametrize("number", [2, 4, 32])
def test_right_answers_do_not_wait_behind_hostile_ones(number):
    bad = [HOSTILE[i % len(HOSTILE)] for i in range(number)]
    with pool.Pool(2) as workers:
        begin = time.monotonic()
        results = workers.map(maths([*bad, *[r"So it is \boxed{42}."] * 8]))
        assert time.monotonic() - begin < 10
    assert [r.score for r in results] == [0.0] * number + [1.0] * 8


@pytest.mark.slow
def test_right_answers_do_not_wait_behind_a_thousand():
    bad = [HOSTILE[i % len(HOSTILE)] + " " * (i // 99) for i in range(1024)]
    with pool.Pool(2) as workers:
        todo, done = maths([*bad, *["42"] * 8]), {}
        begin = time.monotonic()

        def one(i):  # all at once and in order, so that sorting cannot help
            done[i] = (workers.run(todo[i]).score, time.monotonic() - begin)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(todo))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(done[i][0] == 0.0 for i in range(1024))
    assert all(done[i][0] == 1.0 and done[i][1] < 10 for i in range(1024, 1032))


def test_a_job_that_waits_for_a_worker_loses_no_time(rule):
    Path(rule).write_text("import time\ndef score(c, r):\n    time.sleep(0.3)\n    return 1.0\n")
    with pool.Pool(1, seconds=0.2) as workers:  # 2 s on the clock
        results = workers.map(own(rule, ["x"] * 10))  # the last waits longer than its own limit
    assert [r.score for r in results] == [1.0] * 10


BURNERS = {
    "python": "while True: pass",
    "C": "import re; re.match('(x|xx)+y', 'x' * 99)",
    "threads": "import threading; threading.Thread(target=lambda: 9**9**9).start(); 9**9**9",
    "caught": "while True:\n        try: 9**9**6\n        except BaseException: pass",
    "without its timer": "import signal; signal.setitimer(signal.ITIMER_PROF, 0)\n"
    "    while True: pass",
}


@pytest.mark.parametrize("how", BURNERS)
def test_processor_time_is_limited_without_a_clock(rule, how, monkeypatch):
    monkeypatch.setattr(processor_time, "PATIENCE", 10_000)  # the clock would take an hour
    Path(rule).write_text(f"def score(c, r):\n    {BURNERS[how]}\n    return 1.0\n")
    with pool.Pool(1, seconds=0.3) as workers:
        assert workers.run(own(rule, ["x"])[0]) == pool.TIMEOUT


def test_what_only_waits_ends_by_the_clock(rule):
    with pool.Pool(1, seconds=0.2) as workers:
        assert workers.run(own(rule, ["sleep"])[0]) == pool.TIMEOUT


def test_a_worker_that_gets_no_processor_loses_no_time(rule):
    """A machine too busy for a worker is a worker that stands still."""
    Path(rule).write_text(
        "import os, signal\ndef score(c, r):\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    sum(range(100_000))\n    return 1.0\n"
    )
    with pool.Pool(1, seconds=0.5) as workers:
        found = []
        job = own(rule, ["x"])[0]
        thread = threading.Thread(target=lambda: found.append(workers.run(job)))
        thread.start()
        process = None
        while thread.is_alive() and not (process and stands_still(process.pid)):
            time.sleep(0.02)
            process = workers._workers[0].process
        time.sleep(1.2)  # more than the limit, less than the clock's 5 s
        os.kill(process.pid, signal.SIGCONT)
        thread.join()
    assert found == [pool.Result(1.0, "ok")]


def stands_still(pid):
    shown = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.startswith("T")


SPEND = "import time\nwhile time.process_time() < {}: pass"


@pytest.mark.parametrize("seconds, result", [(0.4, (0.0, "timeout")), (4.0, (1.0, "ok"))])
def test_the_time_of_processes_that_a_rule_starts_counts(rule, seconds, result):
    Path(rule).write_text(
        "import subprocess, sys\ndef score(c, r):\n"
        f"    subprocess.run([sys.executable, '-I', '-S', '-c', {SPEND.format(0.6)!r}])\n"
        "    return 1.0\n"
    )
    with pool.Pool(1, seconds=seconds) as workers:
        assert workers.run(own(rule, ["x"])[0])[:2] == result
        assert workers._workers[0].process  # it was not killed for what another process did


def programs(source, cases):
    tests = json.dumps({"tests": {"inputs": ["1\n"] * cases, "outputs": ["1"] * cases}})
    return jobs.grading_jobs(
        [f"```python\n{source}\n```"], [{"reference": "", "extra": tests}], "code"
    )


@pytest.mark.parametrize("seconds, result", [(1.0, (0.0, "timeout")), (6.0, (1.0, "ok"))])
def test_the_programs_of_an_answer_share_its_time(seconds, result):
    with pool.Pool(1, seconds=seconds) as workers:
        job = programs(f"{SPEND.format(0.4)}\nprint(input())", 4)[0]
        assert workers.run(job)[:2] == result


def test_the_start_of_programs_takes_no_time_from_an_answer():
    with pool.Pool(1, seconds=0.9) as workers:
        job = programs("print(input())", 40)[0]  # to start all of them takes more than a second
        assert workers.run(job)[:2] == (1.0, "ok")


def test_imports_take_no_time_from_an_answer(rule):
    Path(rule).write_text(f"{SPEND.format(1.5)}\ndef score(c, r): return 1.0\n")
    with pool.Pool(1, seconds=0.3) as workers:
        assert [r.score for r in workers.map(own(rule, ["x"] * 2))] == [1.0, 1.0]


def test_another_call_does_not_wait_behind_hostile_jobs(rule):
    with pool.Pool(1, seconds=0.2) as workers:
        hostile = threading.Thread(target=workers.map, args=(own(rule, ["hang"] * 8),))
        hostile.start()
        while not workers.counts["timeout"]:
            time.sleep(0.02)
        before = workers.counts["timeout"]
        assert [r.score for r in workers.map(own(rule, ["1"] * 3))] == [1.0] * 3
        assert workers.counts["timeout"] - before <= 4  # jobs of both calls take turns
        hostile.join()
    assert workers.counts == {"timeout": 8, "ok": 3}


def test_the_same_with_1_and_16_workers(rule):
    texts = [str(i % 10 / 10) if i % 7 else "raise" for i in range(60)]
    found = []
    for number in (1, 16):
        with pool.Pool(number, seconds=20) as workers:
            found.append(workers.map(own(rule, texts)))
    assert found[0] == found[1]


def test_a_killed_worker_is_replaced(rule):
    with pool.Pool(1, seconds=20) as workers:
        assert workers.run(own(rule, ["1"])[0]).score == 1.0
        first = workers._workers[0].process.pid
        os.kill(first, signal.SIGKILL)
        assert workers.run(own(rule, ["1"])[0])[:2] == (1.0, "ok")
        assert workers._workers[0].process.pid != first


def test_a_job_whose_worker_somebody_kills_is_run_again(tmp_path):
    """A machine without memory kills any process; a grade must not depend on that."""
    rule, seen = tmp_path / "mine.py", tmp_path / "seen"
    rule.write_text(
        f"import time\ndef score(c, r):\n    with open({str(seen)!r}, 'a') as f: f.write('x')\n"
        f"    if len(open({str(seen)!r}).read()) == 1: time.sleep(60)\n    return 1\n"
    )
    with pool.Pool(1, seconds=20) as workers:
        found = []
        job = own(str(rule), ["1"])[0]
        thread = threading.Thread(target=lambda: found.append(workers.run(job)))
        thread.start()
        while not seen.exists():
            time.sleep(0.01)
        os.kill(workers._workers[0].process.pid, signal.SIGKILL)
        thread.join(30)
        assert found[0].status == "ok" and found[0].score == 1.0 and seen.read_text() == "xx"
        assert workers.counts == {"ok": 1}


def test_a_job_that_cuts_its_worker_off_is_not_run_again(tmp_path):
    """The pool kills that worker itself: nobody else is to blame."""
    rule, seen = tmp_path / "mine.py", tmp_path / "seen"
    rule.write_text(
        f"import os, time\ndef score(c, r):\n    with open({str(seen)!r}, 'a') as f: f.write('x')\n"
        "    os.closerange(0, 99)\n    time.sleep(60)\n"
    )
    with pool.Pool(1, seconds=20) as workers:
        assert workers.run(own(str(rule), ["1"])[0]) == pool.CRASH
    assert seen.read_text() == "x"


def test_several_threads_share_a_pool(rule):
    with pool.Pool(2, seconds=20) as workers:
        found = {}

        def work(k):
            found[k] = [r.score for r in workers.map(own(rule, [f"0.{k}"] * 5))]

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {k: [float(f"0.{k}")] * 5 for k in range(4)}


def test_a_script_without_a_guard_and_without_a_close(rule, tmp_path):
    """No `if __name__` is needed, and nothing outlives a script that forgets its pool."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, os
        from rlvr_jax.host.rules import jobs
        from rlvr_jax.host.workers import pool
        workers = pool.Pool(1, seconds=20)
        job = jobs.grading_jobs(["1"], [{{}}], {rule!r})[0]
        print(workers.run(job).score, workers._workers[0].process.pid, flush=True)
        if os.fork() == 0:  # a fork has workers of its own
            print(pool.shared().run(job).score, flush=True)
            os._exit(0)
        os.wait()
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    (score, pid), (forked, *_) = map(str.split, done.stdout.splitlines())
    assert (score, forked) == ("1.0", "1.0"), done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_worker_ends_with_its_owner(rule, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, threading, time\nfrom rlvr_jax.host.rules import jobs\n"
        "from rlvr_jax.host.workers import pool\n"
        "workers = pool.Pool(1, seconds=60)\n"
        f"job = jobs.grading_jobs(['hang'], [{{}}], {rule!r})[0]\n"
        "threading.Thread(target=workers.run, args=(job,)).start()\n"
        "while not workers._workers[0].process: time.sleep(0.05)\n"
        "time.sleep(1)\nprint(workers._workers[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    end = time.monotonic() + 5
    while time.monotonic() < end and Path(f"/proc/{done.stdout.strip()}/cmdline").exists():
        time.sleep(0.1)
    assert done.stdout.strip() and time.monotonic() < end


def test_a_closed_pool_says_so(rule):
    workers = pool.Pool(1)
    workers.close()
    workers.close()
    with pytest.raises(ValueError, match="closed"):
        workers.run(own(rule, ["1"])[0])


@pytest.mark.parametrize("workers, seconds", [(0, 1), (1, 0), (1, float("nan")), (1, float("inf"))])
def test_what_a_pool_refuses(workers, seconds):
    with pytest.raises(ValueError):
        pool.Pool(workers, seconds)
