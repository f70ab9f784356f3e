"""The report of a run that goes on is written when it is due, and never costs the run."""

import json
from types import SimpleNamespace

import pytest

from rlvr_jax import train
from rlvr_jax.host.report import command, during
from rlvr_jax.host.runs.folder import Interrupted, RunError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_report_every_few_minutes(tmp_path, clock, monkeypatch):
    written = []

    def write(folder):
        written.append(clock.now)
        clock.now += 1

    monkeypatch.setattr(command, "write_report", write)
    reporter = during.Reporter(tmp_path, clock)
    for clock.now in range(0, 1000, 10):
        reporter.write_if_due()
    assert written == [300, 610, 920]


def test_slow_reports_are_rare(tmp_path, clock, monkeypatch):
    def write(folder):
        clock.now += 60

    monkeypatch.setattr(command, "write_report", write)
    reporter = during.Reporter(tmp_path, clock)
    reporter.write()
    clock.now = 60 + 60 / during.SHARE - 1
    monkeypatch.setattr(command, "write_report", lambda folder: pytest.fail("too early"))
    reporter.write_if_due()
    written: list = []
    monkeypatch.setattr(command, "write_report", written.append)
    clock.now += 1
    reporter.write_if_due()
    assert written == [tmp_path]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("a defect")])
def test_a_failure_is_said_once(tmp_path, monkeypatch, capsys, error):
    def write(folder):
        raise error

    monkeypatch.setattr(command, "write_report", write)
    reporter = during.Reporter(tmp_path)
    reporter.write()
    reporter.write()
    said = capsys.readouterr().err
    assert said == f"the report could not be written, and the run goes on: {error}\n"


@pytest.mark.parametrize("error", [Interrupted(15), RunError("an alarm stops the run")])
@pytest.mark.parametrize(("first", "begun"), [(True, True), (False, True), (True, False)])
def test_a_stopped_run_has_its_report(tmp_path, error, first, begun):
    row = {"stage": "rl", "step": 3, "reward/mean": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    team = SimpleNamespace(first=first)
    run = SimpleNamespace(folder=tmp_path, team=team, begun=lambda: begun)
    with pytest.raises(type(error)), train._reported(run):
        raise error
    assert (tmp_path / "report.html").exists() == (first and begun)
