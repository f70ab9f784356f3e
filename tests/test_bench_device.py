"""`python -m rlvr_jax.bench_device`: rows on CPU, and a budget of time that holds."""

import json
import time

import pytest

from rlvr_jax import bench_device
from rlvr_jax.bench_device import Part, list_parts, run_parts, write_tables


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A function that makes a part of a few lines of Python."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, code: str, seconds: float = 20) -> Part:
        (tmp_path / f"part_{name}.py").write_text(code)
        return Part(name, (f"part_{name}",), seconds)

    return make


@pytest.mark.slow
def test_rows_of_this_cpu(capsys) -> None:
    """Both programs run at tiny sizes, in processes of their own."""
    assert bench_device.main(["--platform", "cpu", "--minutes", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(x) for x in lines if x.startswith("{")]
    step = next(x for x in records if "step_s" in x)
    assert step["tok_s_chip"] > 0 and 0 < step["decode_of_copy"] and 0 < step["update_of_product"]
    assert any(x.startswith("| tiny, 2 x 2, 8 + 8 | cpu | 2") for x in lines)
    assert any(x.startswith("| token_logprob | xla | bfloat16 | cpu | 2") for x in lines)
    assert not any(x.startswith("not measured") for x in lines)


def test_a_part_that_fails_loses_no_other(scripts, capsys) -> None:
    before = "print('{\"op\": 1}', flush=True)\n"
    parts = [
        scripts("memory", before + "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory')"),
        scripts("killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        scripts("well", "print('a table')\nprint('{\"op\": 2}')\nprint('[3]')"),
    ]
    records, problems, failed = run_parts(parts, 60)
    assert records == [{"op": 1}, {"op": 2}] and failed
    assert problems == [
        "memory: RuntimeError: RESOURCE_EXHAUSTED: Out of memory",
        "killed: exit code -9",
    ]
    assert capsys.readouterr().out == '{"op": 1}\n{"op": 2}\n'


def test_the_budget_of_time_holds(scripts, monkeypatch) -> None:
    """A part that takes too long is ended with its children, and what it said counts."""
    monkeypatch.setattr(bench_device, "FEWEST_SECONDS", 1.0)
    slow = "import subprocess, sys\nprint('{\"op\": 1}', flush=True)\n"
    slow += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts = [scripts("slow", slow, 2), scripts("late", "print('{\"op\": 2}')")]
    began = time.monotonic()
    records, problems, failed = run_parts(parts, 2.5)
    assert time.monotonic() - began < 10
    assert records == [{"op": 1}] and not failed
    assert problems == ["slow: not done after 2 s", "late: no time left"]


def test_a_device_that_is_not_there_is_one_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench_device, "find_device", lambda: "no backend")
    assert bench_device.main(["--platform", "tpu"]) == 2
    said = capsys.readouterr()
    assert said.err == "error: JAX finds no tpu here; it says: no backend\n" and not said.out


def test_a_search_that_hangs_ends(monkeypatch) -> None:
    monkeypatch.setattr(bench_device, "SEARCH_SECONDS", 0.01)
    assert bench_device.find_device() == "nothing within 0 s"


def test_tables_take_the_plain_time_from_another_record() -> None:
    row = dict(op="attention", case="large", device="X", date="2026-11-30")
    lines = write_tables([row | dict(impl="xla", ms=2.0), row | dict(impl="cudnn", ms=0.5)])
    assert lines[2:4] == [
        "| attention | xla | large | X | 2026-11-30 | 2.000 | 2.000 |",
        "| attention | cudnn | large | X | 2026-11-30 | 0.500 | 2.000 |",
    ]
    assert write_tables([row | dict(impl="cudnn", ms=0.5)])[2].endswith("| 0.500 | - |")
    assert write_tables([]) == [""]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_part_is_a_command_that_exists(platform) -> None:
    import importlib

    from rlvr_jax import bench

    for part in list_parts(platform):
        module, *words = part.words
        if module == "rlvr_jax.bench":
            assert bench._arguments(words).shares
        else:
            op = importlib.import_module(f"rlvr_kernels.{words[0]}")
            assert words[2] in op.IMPLEMENTATIONS


def test_minutes_without_meaning_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        bench_device.main(["--platform", "cpu", "--minutes", "0"])
    assert "--minutes must be above 0" in capsys.readouterr().err
