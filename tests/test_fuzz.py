"""Mutated files and hostile texts by the thousand: each is read, or refused in a sentence.

`RLVR_CHAOS_SEED` chooses what is drawn.
"""

import contextlib
import faulthandler
import json
import os
import random
import re
import resource
import runpy
import shutil
import socket
import time
from pathlib import Path

import jax
import pytest

from rlvr_jax import parameters
from rlvr_jax.config import ModelConfig
from rlvr_jax.host import weights
from rlvr_jax.host.problems.sources import files
from rlvr_jax.host.rules import jobs, programs
from rlvr_jax.host.text import chat, tokenizer
from rlvr_jax.host.workers import memory_group, pool, sandbox, scratch

pytestmark = pytest.mark.chaos
HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
ROWS, PARQUETS, MODELS, TOKENIZERS, TEMPLATES = 10_000, 500, 2_000, 700, 1_000
PROGRAMS = 500
SECONDS = 10.0  # for one file or text
SEED = int(os.environ.get("RLVR_CHAOS_SEED", 0))
ODD = [None, True, 0, -1, 1.5, 10**30, 10**400, float("nan"), float("inf"), "", " ", "\0", "x"]
ODD += ["\x1b[2J\r\nerror: forged", "\u202e4", "\ud800", "9" * 5000, "a" * 10**5, "\\boxed{"]
ODD += [[], [[]], {}, [None], {"a": []}, [{"role": "user", "content": None}], [{"role": 7}]]


@pytest.fixture(autouse=True)
def little_memory():
    """A header of a few bytes must not ask for gigabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    here = pages * resource.getpagesize() + (6 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (here, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(call, label: str):
    """What `call` returns, or None if it is refused; a hang or another error fails the test."""
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
    began = time.monotonic()
    try:
        return call()
    except ValueError as error:  # also WeightsError and TokenizerError
        said = str(error)
        assert said and "Traceback" not in said, label
        return None
    except Exception as error:
        raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
    finally:
        faulthandler.cancel_dump_traceback_later()
        assert time.monotonic() - began < SECONDS, label


def mutate_bytes(draw: random.Random, data: bytes, head: int = 0) -> bytes:
    """Flip, cut, repeat or insert bytes, within the first `head` bytes where given."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        place, kind = draw.randrange(min(head or len(out), len(out)) or 1), draw.randrange(6)
        if kind < 2 and out:
            out[place] = draw.randrange(256)
        elif kind == 2:
            out[place : place + 8] = draw.choice([b"\xff" * 8, bytes(8), b"\0\0\0\x80\0\0\0\0"])
        elif kind == 3:
            out = out[: place or 1]
        elif kind == 4:
            out[place:place] = out[place : place + draw.randrange(1, 64)]
        else:
            del out[place : place + draw.randrange(1, 64)]
    return bytes(out)


def mutate_tree(draw: random.Random, tree):
    """Replace, drop or add one value somewhere in a tree of JSON."""
    if isinstance(tree, dict) and tree and draw.random() < 0.85:
        out, key = dict(tree), draw.choice(list(tree))
        kind = draw.random()
        if kind < 0.6:
            out[key] = mutate_tree(draw, tree[key])
        elif kind < 0.8:
            del out[key]
        else:
            out[draw.choice([key + "s", "other", "", key.upper()])] = draw.choice(ODD)
        return out
    if isinstance(tree, list) and tree and draw.random() < 0.7:
        out = list(tree)
        place = draw.randrange(len(out))
        out[place] = mutate_tree(draw, out[place])
        return out
    return draw.choice(ODD)


def test_rows_of_data(tmp_path):
    """Rows are read or refused, and no wrong answer to a row that is read gets a point."""
    draw = random.Random(f"rows {SEED}")
    layouts = runpy.run_path(str(HERE / "host/problems/test_sources.py"))["LAYOUTS"]
    good = [row for row, _ in layouts.values()]
    records = []
    for number in range(ROWS):
        row = draw.choice(good)
        for _ in range(draw.choice([1, 1, 2, 3])):
            row = mutate_tree(draw, row)
        data = json.dumps(row).encode("utf-8", "surrogatepass")
        if draw.random() < 0.3:
            data = mutate_bytes(draw, data)
        path = tmp_path / "rows.jsonl"
        path.write_bytes(data + b"\n")
        label = f"row {number}: {data[:300]!r}"
        records += attempt(lambda p=path: list(files.load_records(p, "file:rows")), label) or []
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    read = 0
    for number in range(PARQUETS):
        path, row = tmp_path / "rows.parquet", mutate_tree(draw, draw.choice(good))
        try:
            parquet.write_table(pyarrow.Table.from_pylist([row, row]), path)
        except (pyarrow.ArrowException, AttributeError, OverflowError, UnicodeError):
            continue  # what no Parquet file can hold
        if draw.random() < 0.5:
            path.write_bytes(mutate_bytes(draw, path.read_bytes()))
        label = f"parquet {number}: {row!r:.300}"
        read += bool(attempt(lambda p=path: list(files.load_records(p, "file:rows")), label))
    assert len(records) > ROWS / 20 and read > 10
    wrong = "Reasons.\n\\boxed{zzqq-17}\nzzqq-17"
    with pool.Pool(2, seconds=5) as workers:
        results = workers.map(jobs.grading_jobs([wrong] * len(records), records, ""))
        nothing = workers.map(jobs.grading_jobs([""] * len(records), records, ""))
    paid = [r for r, one in zip(records, results, strict=True) if one.score > 0]
    assert paid == [] and not any(one.score for one in nothing)
    print(f"{ROWS} rows, {len(records)} read; {PARQUETS} Parquet files, {read} read")


def load(path: Path) -> dict:
    cfg = ModelConfig(**weights.load_architecture(path))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return weights.load(path, cfg, dict.fromkeys(parameters.abstract(cfg), place))


def test_files_of_models(tmp_path):
    draw, folder = random.Random(f"models {SEED}"), tmp_path / "model"
    made = runpy.run_path(str(HERE / "host/weights/test_gguf.py"))
    cfg = ModelConfig(**weights.load_architecture(GOLDEN / "models" / "llama"))
    said = made["metadata"]("llama", cfg) | {"tokenizer.ggml.eos_token_id": 2}
    gguf = tmp_path / "m.gguf"
    made["write"](gguf, "llama", said, made["tensors"]("llama", "llama", cfg))
    whole, read = gguf.read_bytes(), {"config.json": 0, "model.safetensors": 0, "gguf": 0}
    names = sorted(path.name for path in (GOLDEN / "models").iterdir())
    for number in range(MODELS):
        kind = draw.choice(list(read))
        shutil.rmtree(folder, ignore_errors=True)
        source = GOLDEN / "models" / draw.choice(names)
        if kind == "gguf":
            path = gguf
            # Most of the file is numbers, which may be anything.
            head = draw.choice([0, 64, whole.index(b"token_embd") + 200])
            path.write_bytes(mutate_bytes(draw, whole, head))
        else:
            shutil.copytree(source, folder)
            path, file = folder, folder / kind
            data = file.read_bytes()
            if kind == "config.json" and draw.random() < 0.8:
                tree = mutate_tree(draw, json.loads(data))
                file.write_text(json.dumps(tree), errors="surrogatepass")
            else:
                head = 8 + int.from_bytes(data[:8], "little") if "tensors" in kind else 0
                file.write_bytes(mutate_bytes(draw, data, draw.choice([0, head])))
        read[kind] += (
            attempt(lambda p=path: load(p), f"{kind} {number} ({source.name})") is not None
        )
    assert all(0 < count < MODELS / 2 for count in read.values()), read
    print(f"{MODELS} models, read: {read}")


def test_files_of_tokenizers(tmp_path):
    draw = random.Random(f"tokenizers {SEED}")
    spm = tmp_path / "spm.model"
    tokenizer.train([f"What is {a} + {b}?" for a in range(30) for b in range(30)], 300, spm)
    tokenizer.open_tokenizer("byte").save(tmp_path)
    tree = json.loads((tmp_path / "tokenizer.json").read_text())
    read = {"json": 0, "model": 0}
    for number in range(TOKENIZERS):
        kind = draw.choice(list(read))
        path = tmp_path / "fuzz" / f"tokenizer.{kind}"
        path.parent.mkdir()
        if kind == "json":
            shutil.copy(tmp_path / "tokenizer_config.json", path.parent)  # names the end of text
        if kind == "model":
            path.write_bytes(mutate_bytes(draw, spm.read_bytes()))
        elif draw.random() < 0.7:
            path.write_text(json.dumps(mutate_tree(draw, tree)), errors="surrogatepass")
        else:
            path.write_bytes(mutate_bytes(draw, json.dumps(tree).encode()))

        def use(path=path):
            tok = tokenizer.open_tokenizer(path)
            tok.decode(tok.encode("What is 3 + 4? \u00e9\n"))
            return tok

        read[kind] += attempt(use, f"tokenizer.{kind} {number}") is not None
        shutil.rmtree(path.parent)
    assert all(0 < count < TOKENIZERS / 2 for count in read.values()), read
    print(f"{TOKENIZERS} tokenizers, read: {read}")


PIECES = [
    *("{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m.role }}", "{% else %}"),
    *("{% if loop.first %}", "{% endif %}", "{% set x = 'a' * 999999 %}", "{{ x ~ x }}", "{{"),
    *("{% set n = namespace(x=[1]) %}", "{% set n.x = n.x + n.x %}", "{{ n.x | tojson }}", "}}"),
    *("{% for i in range(99999) %}", "{{ range(10**9) | list }}", "{{ 10 ** 10 ** 9 }}", "{%-"),
    *("{% macro f(a) %}", "{{ f(f) }}", "{% endmacro %}", "{{ f(1) }}", "{% raw %}", "{{ 1 / 0 }}"),
    *("{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__class__ }}", "\x1b[2J"),
    *("{{ cycler.__init__.__globals__.os.system('touch OUT') }}", "{{ raise_exception('x') }}"),
    *("{{ lipsum.__globals__['os'].popen('touch OUT').read() }}", "{{ self.__init__ }}", "{#"),
    *("{{ ''['format_map'] }}", "{{ '{0.__class__}'.format(1) }}", "{{ m | map('upper') }}"),
    *("{% include '/etc/passwd' %}", "{% import 'os' as o %}", "{% extends 'a' %}"),
    *("{{ messages | attr('__class__') }}", "{{ strftime_now('%' * 99) }}", "{% break %}"),
    *("{{ messages.append(messages) }}", "{{ messages }}", "{{ m | tojson(indent=99999) }}"),
    *("{{ x.join(messages) }}", "{{ 'a' | center(10**9) }}", "{% generation %}"),
    *("{{ messages | sort | unique | groupby('role') }}", "\ud800"),
]  # fmt: skip


def test_chat_templates(tmp_path, monkeypatch):
    """Random templates end and let nothing out; what they are written of is above."""
    monkeypatch.chdir(tmp_path)
    draw, ended = random.Random(f"templates {SEED}"), 0
    real = json.loads((GOLDEN / "chat_texts.json").read_text())["templates"]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    for number in range(TEMPLATES):
        if draw.random() < 0.4:
            text = mutate_bytes(draw, draw.choice(list(real.values()))[0].encode())
            text = text.decode("utf-8", "replace")
        else:
            text = "".join(draw.choices(PIECES, k=draw.randint(1, 12)))
        label = f"template {number}: {text!r:.500}"
        said = attempt(lambda t=text: chat.compile_template(t, "x")(messages), label)
        ended += said is not None
        assert not re.search("<class|root:", said or ""), label
    assert list(tmp_path.iterdir()) == [] and ended > TEMPLATES / 20
    assert messages[0] == {"role": "user", "content": "hi"} and len(messages) == 2
    print(f"{TEMPLATES} templates, {ended} read to their end")


# Each line stands for itself; what one of them defines, another one may miss.
ATTACKS = [
    *("print(open(SECRET).read())", "open(OUT, 'w').write('x')", "import os; os.mkdir(OUT)"),
    *("import os; os.symlink(SECRET, 'link'); print(open('link').read())",
      "print(dict(os.environ))"),
    *("import glob\nfor p in glob.glob('/proc/*/environ'): print(open(p).read())",),
    *("import glob\nfor p in glob.glob('/proc/*/cwd/*'): print(p)",
      "print(open('/etc/passwd').read())"),
    *("import socket; socket.create_connection(('127.0.0.1', PORT), 1).send(b'out')",),
    *("import socket; socket.socket(socket.AF_UNIX).connect('\\0abstract')", "import ctypes"),
    *("import socket; socket.socket(40, 1)", "import socket; socket.socket(socket.AF_NETLINK, 3)"),
    *("import ctypes; ctypes.CDLL(None).syscall(250, 0, -3, 0)", "import os; os.kill(-1, 9)"),
    *("import ctypes; ctypes.CDLL(None).syscall(248, b'user', b'left', b'x', 1, -3)",),
    *("import ctypes; print(ctypes.CDLL(None).syscall(101, 16, 1, 0, 0))",),
    *("import ctypes; ctypes.CDLL(None).syscall(425, 8, 0)", "import os; os.setsid()"),
    *("import ctypes; ctypes.CDLL(None).syscall(272, 0x10000000)", "import os; os.chroot('.')"),
    *("import ctypes; ctypes.string_at(0)", "import os; os.abort()", "import sys; sys.exit(0)"),
    *("import os; os.fork()", "import os\nwhile os.fork() >= 0: pass", "while True: pass"),
    *("import os\nif not os.fork():\n    os.setsid()\n    while True: pass",),
    *("import subprocess; subprocess.run(['/bin/sh', '-c', 'sleep 99'])",
      "import time; time.sleep(99)"),
    *("import threading\nfor _ in range(99): threading.Thread(target=print, args=('t',)).start()",),
    *("x = 'a' * 10**10", "x = [0] * 10**9", "x = []\nwhile True: x.append(' ' * 10**6)"),
    *("print('x' * 10**8)", "open('big', 'w').write('x' * 10**8)", "import sys; sys.stdin.read()"),
    *("for i in range(10**5): open(f'{i}', 'w')", "import os; os.close(1)", "def f(): f()\nf()"),
    *("import mmap; mmap.mmap(-1, 10**9)", "import os; os.nice(-20)", "import os; os.setuid(0)"),
    *("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "print('\\x1b[2J')"),
    *("import signal\nfor n in range(1, 64):\n    try: signal.signal(n, signal.SIG_IGN)\n"
      "    except Exception: pass",),
    *("import multiprocessing.shared_memory as m; m.SharedMemory('left', True, 99)",),
    *("import gc\nfor x in gc.get_objects():\n    if type(x) is dict: x.clear()",),
    *("import builtins; builtins.print = lambda *a: None", "import atexit; atexit.register(f)"),
    *("import os\nfor n in range(3, 99):\n    try: print(os.read(n, 99))\n    except OSError: 0",),
    *("import os\nfor n in range(99):\n    try: os.write(n, b'6')\n    except OSError: pass",),
    *("import sys; sys.modules.clear()", "import sys; sys.settrace(lambda *a: 1 / 0)", "f(\0)"),
    *("class B(int):\n    def __eq__(self, other): return True\ndef mul(a, b): return B(0)",),
    *("def mul(a, b): return type('', (), {'__eq__': lambda s, o: True})()",
      "def mul(*a): return a"),
    *("import builtins; builtins.len = lambda x: 6", "def mul(a, b): raise SystemExit(0)"),
]  # fmt: skip


def test_programs_in_the_jail(tmp_path, monkeypatch):
    """Random programs of attacks end, get no point, learn no secret, and leave nothing."""
    if set(sandbox.walls()) != set(sandbox.WALLS):
        pytest.skip(f"walls are missing here: only {sandbox.walls()} stand")
    monkeypatch.setenv("SECRET_OF_TEST", "zzqq-hush")
    tmp_path.chmod(0o777)
    secret, out = tmp_path / "secret", tmp_path / "out"
    secret.write_text("zzqq-hush")
    port = socket.create_server(("127.0.0.1", 0))
    port.settimeout(0)
    home = scratch.make_folder("mine_").parent
    before, keys = set(home.iterdir()), Path("/proc/keys").read_text().count("left")
    draw, limits = random.Random(f"programs {SEED}"), sandbox.Limits(seconds=0.5, walls="required")
    names = f"SECRET, OUT, PORT = {str(secret)!r}, {str(out)!r}, {port.getsockname()[1]}\n"
    tests = {"fn_name": "mul", "inputs": [[2, 3], [7, 5]], "outputs": [6, 35]}
    ended: dict[str, int] = {}
    for number in range(PROGRAMS):
        lines = draw.choices(ATTACKS, k=draw.randint(1, 5))
        guarded = [f"try:\n    exec({line!r})\nexcept Exception: pass" for line in lines]
        body = draw.choice([guarded, lines])
        source = names + "\n".join(body)
        label = f"program {number}: {source!r:.1500}"
        began = time.monotonic()
        result = sandbox.run(source, "", limits)
        assert time.monotonic() - began < 30, label
        assert b"zzqq-hush" not in result.output and b"root:" not in result.output, label
        assert not out.exists() and sorted(tmp_path.iterdir()) == [secret], label
        assert set(home.iterdir()) == before, label
        if number % 10 == 0:  # a grader takes more than one process
            with contextlib.suppress(TimeoutError):
                text = f"```python\n{source}\n```"
                assert programs.score(text, tests, limits) == 0, label
        ended[result.status] = ended.get(result.status, 0) + 1
    with pytest.raises(BlockingIOError):
        port.accept()
    port.close()
    assert Path("/proc/keys").read_text().count("left") == keys
    mine = f"{memory_group.PREFIX}{os.getpid()}_"
    left = [path for path in Path("/proc").glob("[0-9]*/cgroup") if mine in _text(path)]
    assert left == [] and list(Path("/dev/shm").glob("*left*")) == []
    print(f"{PROGRAMS} programs: {ended}")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
