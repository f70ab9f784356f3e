"""Programs of a model: their attacks end with nothing left and nothing touched."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlvr_jax.host.workers import (
    jail,
    memory_group,
    processor_time,
    sandbox,
    scratch,
    system_calls,
)

SHORT = sandbox.Limits(seconds=0.5)
needs_walls = pytest.mark.skipif(
    "namespaces" not in sandbox.walls(), reason="the kernel permits no namespaces"
)
needs_filter = pytest.mark.skipif(
    "system calls" not in sandbox.walls(), reason="the kernel has no filters"
)
needs_groups = pytest.mark.skipif("memory" not in sandbox.walls(), reason="no cgroups here")


def run(source, stdin="", limits=SHORT):
    begin = time.monotonic()
    result = sandbox.run(source, stdin, limits)
    assert time.monotonic() - begin < 30  # 5 s and what a busy machine adds
    return result


def running(word):
    shown = subprocess.run(
        ["ps", "-wweo", "pid=,stat=,args="], capture_output=True, text=True
    ).stdout
    return [row for row in shown.splitlines() if word in row and ours(row.split()[0])]


def ours(process):
    """Whether a process is of this test process: others may run programs at the same time."""
    try:
        group = Path(f"/proc/{process}/cgroup").read_text()
    except OSError:
        return False
    return memory_group.PREFIX not in group or f"{memory_group.PREFIX}{os.getpid()}_" in group


def test_input_and_output():
    assert run("print(input()[::-1])", "abc\n") == (b"cba\n", "ok")
    assert run("import sys; sys.exit(3)").status == "error"
    assert run("print(len(open(0).read()))", "x" * 900_000).output == b"900000\n"
    assert run("print(1)", "x" * 900_000).output == b"1\n"  # input that is not read
    assert run("x" * 200_000).status == "refused"
    assert run("\ud800").status == "error"


@pytest.mark.parametrize(
    "source, status",
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(99)", "timeout"),
        ("x = 'a' * 10**10", "error"),
        ("print('x' * 10**8)", "output"),
        ("open('big', 'w').write('x' * 10**8)", "error"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "error"),
        ("import socket; socket.create_connection(('127.0.0.1', 9), 1)", "error"),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1:9', timeout=1)", "error"),
        ("import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()", "error timeout"),
        ("import os\nos.close(1); os.close(2)\nwhile True: pass", "timeout"),
    ],
)
def test_attacks_end(source, status):
    assert run(source).status in status.split()
    assert running("program.py") == []


def test_the_environment_is_empty_and_the_folder_goes(monkeypatch):
    monkeypatch.setenv("SECRET_OF_TEST", "hush")
    found = run("import os; print(dict(os.environ), os.getcwd())").output.decode()
    assert "hush" not in found
    home = scratch.make_folder("mine_").parent
    before = set(home.iterdir())
    run("open('left', 'w').write('x')")
    assert set(home.iterdir()) == before


@needs_walls
class TestWalls:
    def test_a_bounded_fork_bomb(self):
        bomb = (
            "import os\nmade = 0\ntry:\n    for _ in range(200):\n"
            "        if os.fork() == 0:\n            import time; time.sleep(30); os._exit(0)\n"
            "        made += 1\nexcept OSError: print('refused after', made)\n"
        )
        assert run(bomb).output.startswith(b"refused after")
        assert running("program.py") == []

    def test_daemons_and_groups_of_their_own(self):
        away = "import os\nif os.fork(): os._exit(0)\nos.setsid()\nwhile True: pass"
        assert run(away).status in ("ok", "timeout")
        alone = "import os, ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"
        assert run(alone + "os.setpgid(0, 0)\ntime.sleep(99)").status == "timeout"
        end = time.monotonic() + 2
        while running("program.py") and time.monotonic() < end:
            time.sleep(0.05)
        assert running("program.py") == []

    def test_files_outside(self, tmp_path):
        secret = tmp_path / "tests.json"
        secret.write_text("expected")
        tmp_path.chmod(0o777)
        reads = f"print(open({str(secret)!r}).read())"
        assert run(reads) == (b"", "error")
        for place in (tmp_path / "new", "/usr/new", "/new", Path(__file__)):
            assert run(f"open({str(place)!r}, 'a').write('x')").status == "error"
        assert sorted(tmp_path.iterdir()) == [secret]

    def test_other_processes(self):
        kills = (
            "import os\nfor p in range(2, 99999):\n    try: os.kill(p, 9)\n    except OSError: 1"
        )
        run(f"import os\nme = os.getpid()\n{kills.replace('os.kill(p', 'p != me and os.kill(p')}")
        run("import os\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)")
        seen = run("import os\nprint(os.getppid(), os.getpid() < 10)").output
        assert seen == b"1 True\n" and os.getppid()

    def test_no_privileges_to_get_out(self):
        out = (
            "import ctypes\nc = ctypes.CDLL(None)\n"
            "print(c.unshare(0x10000000), c.mount(b'none', b'.', b'tmpfs', 0, b''),"
            "c.setuid(0),"
            "c.chroot(b'.'), c.ptrace(16, 1, 0, 0))"
        )
        assert run(out).output == b"-1 -1 -1 -1 -1\n"


CALL = """import ctypes
c = ctypes.CDLL(None, use_errno=True)
print({call}, ctypes.get_errno())
"""
KEYRING = """import ctypes
from rlvr_jax.host.workers import jail
c = ctypes.CDLL(None, use_errno=True)
find = lambda: c.syscall({keyctl}, 10, -3, b"user", b"rlvr-secret", 0) > 0
c.syscall({keyctl}, 1, None)  # not the keyring of those who run the tests
if c.syscall({add_key}, b"user", b"rlvr-secret", b"hush", 4, -3) < 0:
    print("no keys")
else:
    permit_all = (0x06 | 0x7FFF0000 << 32).to_bytes(8, "little").hex()
    said = f"found {{find()}} "
    said += str(jail._filter(c, {{"filter": permit_all, "join_session": {keyctl}}}))
    print(f"{{said}}, then {{find()}}")
"""
DENIED = {
    "AF_VSOCK": "c.socket(40, 1, 0)",
    "AF_NETLINK": "c.socket(16, 3, 0)",
    "AF_UNIX": "c.socket(1, 1, 0)",
    "io_uring_setup": "c.syscall(425, 8, 0)",
    "pidfd_open": "c.syscall(434, 1, 0)",
    "unshare": "c.unshare(0x10000000)",
    "ptrace": "c.ptrace(16, 1, 0, 0)",
}


@needs_filter
class TestFilter:
    @pytest.mark.parametrize("call", DENIED)
    @pytest.mark.parametrize("walls", ["wanted", ""])
    def test_calls_that_no_test_needs(self, call, walls):
        limits = sandbox.Limits(seconds=2, walls=walls)
        assert run(CALL.format(call=DENIED[call]), limits=limits).output == b"-1 1\n"

    def test_keyrings(self):
        keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[platform.machine()]
        for call in (f"{keyctl}, 0, -3, 0", f"{add_key}, b'user', b'a', b'b', 1, -3"):
            assert run(CALL.format(call=f"c.syscall({call})")).output == b"-1 1\n"

    def test_a_program_has_a_session_keyring_of_its_own(self):
        """Behind a filter that lets all calls pass, the key of the parent is not found."""
        keyctl, add_key = {"x86_64": (250, 248), "aarch64": (219, 217)}[platform.machine()]
        source = KEYRING.format(keyctl=keyctl, add_key=add_key)
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, env=env)
        if done.stdout == b"no keys\n":
            pytest.skip("keyrings are closed to this process")
        assert done.stdout == b"found True True, then False\n", done.stderr

    def test_namespaces_through_clone(self):
        number = system_calls.CLONE[platform.machine()]
        for flags in (0x10000000, 0x40000000, 0x00020000):
            call = CALL.format(call=f"c.syscall({number}, {flags} | 17, 0, 0, 0, 0)")
            assert run(call).output == b"-1 1\n"
        assert run(CALL.format(call="c.syscall(435, 0, 0)")).output == b"-1 38\n"

    def test_what_python_needs(self):
        """An event loop, threads, processes, pipes, files, clocks, random numbers."""
        program = """
import asyncio, os, pathlib, random, secrets, subprocess, tempfile, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
async def later(x):
    await asyncio.sleep(0.001)
    return x
print(asyncio.run(later(1)))
with ThreadPoolExecutor(2) as pool: print(sum(pool.map(int, "123")))
print(subprocess.run(["/bin/echo", "x"], capture_output=True).stdout)
place = pathlib.Path(tempfile.mkdtemp())
(place / "a").write_text("b"); (place / "a").rename(place / "c")
print(os.listdir(place), len(secrets.token_bytes(4)), time.monotonic() > 0)
os.dup2(os.pipe()[1], 9)
child = os.fork()
if not child: os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        limits = sandbox.Limits(seconds=4)
        shown = b"1\n6\nb'x\\n'\n['c'] 4 True\n3\n"
        assert run(program, limits=limits) == (shown, "ok")


@needs_groups
def test_all_processes_together_have_one_limit_of_memory():
    program = (
        "import os, time\nmine = [os.fork() for _ in range(2)]\n"
        "x = bytearray(40 << 20)\nx[::4096] = b'x' * len(x[::4096])\n"
        "time.sleep(0.3)\nprint('here', flush=True)\n"
        "for child in filter(None, mine): os.waitpid(child, 0)\n"
    )
    little, enough = (sandbox.Limits(seconds=4, memory=size) for size in (100, 512))
    assert run(program, limits=little).output.count(b"here") < 4
    assert run(program, limits=enough).output.count(b"here") == 4
    assert not list(memory_group._parent()[1].glob(f"{memory_group.PREFIX}{os.getpid()}_*"))


@needs_walls
def test_the_place_of_the_project_does_not_matter(tmp_path):
    """A folder of the interpreter could have the name of the program's folder behind the walls."""
    inside = {part for path in sandbox._mounts() for part in Path(path).parts}
    assert jail.INSIDE.strip("/") not in inside
    assert run("print(__file__)").output.decode() == f"{jail.INSIDE}/program.py\n"


def test_without_walls_the_network_is_closed_from_inside():
    limits = sandbox.Limits(seconds=0.5, walls="")
    assert run("print(1)", limits=limits) == (b"1\n", "ok")
    assert run("import socket; socket.socket()", limits=limits).status == "error"


def test_processor_time_is_limited_without_a_clock(monkeypatch):
    monkeypatch.setattr(processor_time, "PATIENCE", 10_000)
    assert run("while True: pass").status == "timeout"


def test_a_program_that_gets_no_processor_loses_no_time():
    """A machine too busy for a program is a program that stands still."""
    found = []
    source = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint(1)"
    thread = threading.Thread(target=lambda: found.append(run(source)))
    thread.start()
    still = []
    while not still and thread.is_alive():
        time.sleep(0.02)
        still = [row for row in running("program.py") if row.split()[1][0] == "T"]
    time.sleep(1.0)  # more than the limit, less than the clock's 5 s
    os.kill(int(still[0].split()[0]), signal.SIGCONT)
    thread.join()
    assert found == [(b"1\n", "ok")]


def test_a_program_gets_what_is_left_of_the_time_of_a_job(monkeypatch):
    monkeypatch.setattr(processor_time, "left", lambda: 0.7)
    spend = "import time\nwhile time.process_time() < {}: pass"
    assert run(spend.format(0.2), limits=sandbox.Limits(seconds=9.0)).status == "ok"
    assert run(spend.format(1.5), limits=sandbox.Limits(seconds=9.0)).status == "timeout"
    monkeypatch.setattr(processor_time, "left", lambda: -0.1)
    assert run("print(1)") == (b"", "timeout")


def test_a_conversation():
    source = "import sys\nfor line in sys.stdin: print('noise\\nm' + line.strip() * 2, flush=True)"
    with sandbox.converse(source, SHORT) as program:
        assert program.ask(b"a\n", b"m") == b"aa"
        assert program.ask(b"x" * 300_000 + b"\n", b"m") == b"x" * 600_000
        assert program.status == "ok"


@pytest.mark.parametrize(
    "source, status",
    [
        ("pass", "error"),
        ("import sys; sys.stdout.write('m1')", "error"),  # no whole line
        ("while True: pass", "timeout"),
        ("while True: print('x' * 10**6)", "output"),
        ("x" * 200_000, "refused"),
    ],
)
def test_conversations_that_end(source, status):
    with sandbox.converse(source, SHORT) as program:
        assert program.ask(b"a\n", b"m") is None and program.status == status
        assert program.ask(b"a\n", b"m") is None
    assert running("program.py") == []
