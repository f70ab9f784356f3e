"""The time of a job: what it has used, what does not count, what is left."""

import math
import subprocess
import sys

import pytest

from rlvr_jax.host.workers import processor_time

SPEND = "import time\nwhile time.process_time() < 0.5: pass"


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    monkeypatch.setattr(processor_time, "_end", math.inf)


def test_a_process_without_a_job_has_time_without_end():
    assert processor_time.left() == math.inf
    processor_time.exempt(1.0)
    assert processor_time.left() == math.inf


def test_what_is_left(monkeypatch):
    monkeypatch.setattr(processor_time, "used", lambda: 7.0)
    processor_time.begin(2.0)
    assert processor_time.left() == 2.0
    monkeypatch.setattr(processor_time, "used", lambda: 10.0)
    assert processor_time.left() == -1.0
    processor_time.exempt(1.5)
    assert processor_time.left() == 0.5


def test_processes_that_have_ended_count():
    before = processor_time.used()
    subprocess.run([sys.executable, "-I", "-S", "-c", SPEND])
    assert processor_time.used() - before >= 0.5
