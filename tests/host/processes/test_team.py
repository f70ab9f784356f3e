"""Processes that meet share values in order, and all of them end when one does, with a sentence."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from make_port import free_port

from rlvr_jax.host.processes import team as teams
from rlvr_jax.host.processes.place import Place
from rlvr_jax.host.processes.team import Team, TeamError, meet

KEPT: list = []  # teams: one that is forgotten closes its connections, as a dead process does


def with_exit(leave):
    """The module `os`, with another end of the process."""
    return SimpleNamespace(**(vars(os) | {"_exit": leave}))


def stay(code):
    """Threads of a team may outlive their test: they must never end this process."""
    threading.Event().wait()


teams.os = with_exit(stay)


@pytest.fixture
def ended(monkeypatch):
    """Exit codes, in place of the end of this process, which holds all teams of a test."""
    codes: list[int] = []

    def leave(code):
        codes.append(code)
        stay(code)

    monkeypatch.setattr(teams, "os", with_exit(leave))
    monkeypatch.setattr(teams, "NEWS", 0.1)
    return codes


def begin(call):
    threading.Thread(target=call, daemon=True).start()


def until(seen):
    end = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.01)


def in_threads(*calls):
    """The results of calls that wait for each other; an exception counts as a result."""
    results = [None] * len(calls)

    def run(number):
        try:
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a process waits for ever"
    KEPT.append(results)
    return results


def met(*places, timeout=10):
    return in_threads(*(lambda place=place: meet(place, timeout) for place in places))


def places(count):
    address = f"127.0.0.1:{free_port()}"
    return [Place(address, count, index) for index in range(count)]


def test_a_process_alone_waits_for_nobody(capsys):
    alone = meet(Place("", 1, 0), 0)
    assert alone.first and alone.gather("here", 3) == [3] and alone.share("there", lambda: 4) == 4
    alone.close()
    said = []
    assert alone.end(2, "why", said.append) == 2 and said == ["why"]


def test_values_come_in_the_order_of_the_processes():
    three = met(*places(3))
    for point in ("a", "b"):
        calls = [lambda t=t, p=point: t.gather(p, {"from": t.index, "at": p}) for t in three]
        found = in_threads(*calls)
        assert found == [[{"from": i, "at": point} for i in range(3)]] * 3
    called = []

    def value():
        called.append(1)
        return [1.5, None, "x"]

    assert in_threads(*(lambda t=t: t.share("v", value) for t in three)) == [[1.5, None, "x"]] * 3
    assert called == [1]
    assert in_threads(*(t.close for t in three)) == [None] * 3


def test_two_points_of_the_program_are_not_taken_for_one():
    pair = met(*places(2))
    begin(lambda: pair[1].gather("there", 2))
    (error,) = in_threads(lambda: pair[0].gather("here", 1))
    assert isinstance(error, TeamError) and "is at 'there' and process 0 at 'here'" in str(error)


def test_the_end_of_one_is_the_end_of_all_and_said_once(ended, capfd):
    pair = met(*places(2))
    said = []
    begin(lambda: pair[1].end(2, "error: a file is missing", said.append))
    until(lambda: len(ended) == 2)
    err = capfd.readouterr().err
    assert err.count("a file is missing") == 1 and "process 1 on" in err
    assert set(ended) == {2}


def test_the_same_error_of_all_is_said_once(ended, capfd):
    pair = met(*places(2))
    said = []
    for team in pair:
        begin(lambda t=team: t.end(2, "error: no such key", said.append))
    until(lambda: len(ended) >= 2)
    assert [*said, capfd.readouterr().err].__str__().count("no such key") == 1
    assert set(ended) == {2}


DIES = """
import sys, time
from rlvr_jax.host.processes.place import Place
from rlvr_jax.host.processes.team import meet
team = meet(Place(sys.argv[1], 2, int(sys.argv[2])), 20)
print("met", flush=True)
if sys.argv[2] == "0":
    team.gather("what never comes", None)
time.sleep(60)
"""


@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_the_other_at_once_with_a_sentence(dead):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    address = f"127.0.0.1:{free_port()}"
    commands = [[sys.executable, "-c", DIES, address, str(index)] for index in range(2)]
    both = [subprocess.Popen(c, stdout=pipe, stderr=pipe, text=True, env=env) for c in commands]
    try:
        assert [process.stdout.readline() for process in both] == ["met\n"] * 2
        both[dead].send_signal(signal.SIGKILL)
        out, err = both[1 - dead].communicate(timeout=20)
        assert both[1 - dead].returncode == 75
        assert f"process {dead} of 2 on" in err and "is gone without a word" in err
        assert len(err.splitlines()) == 1
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_a_process_that_does_not_come_is_named():
    (error,) = met(places(3)[0], timeout=0.5)
    assert isinstance(error, TeamError)
    assert "only 1 of 3 processes came within 0 s: there is no process 1, 2" in str(error)


def test_a_coordinator_that_is_not_there_is_named():
    place = places(2)[1]
    (error,) = met(place, timeout=0.5)
    assert isinstance(error, TeamError) and "no process 0 at 127.0.0.1" in str(error)


def test_a_port_in_use_is_named():
    port = free_port()
    with socket.create_server(("", port - 1)):
        (error,) = met(Place(f"127.0.0.1:{port}", 2, 0), timeout=0.5)
    assert isinstance(error, TeamError) and f"port {port - 1} of the coordinator" in str(error)


@pytest.mark.parametrize("index, count", [(1, 3), (1, 2)])
def test_a_process_of_another_run_is_refused_in_both(ended, capfd, index, count):
    """Two processes with one number, or with another count."""
    first, other, _ = places(3)
    calls = [first, other, Place(first.coordinator, count, index)]
    found = in_threads(*(lambda p=p: meet(p, 3) for p in calls))
    assert isinstance(found[0], TeamError)
    assert "is not one of the 3 that process 0 waits for, or comes twice" in str(found[0])
    until(lambda: ended)
    assert set(ended) == {2}


def test_a_stranger_at_the_port_is_ignored():
    first, other = places(2)
    port = int(first.coordinator.rpartition(":")[2]) - 1

    def stranger():
        for text in (b"GET / HTTP/1.1\r\n\r\n" * 400, b'{"hello": 3}\n', b""):
            for _ in range(100):
                try:
                    with socket.create_connection(("127.0.0.1", port)) as connection:
                        with contextlib.suppress(OSError):
                            connection.sendall(text)
                    break
                except OSError:
                    time.sleep(0.02)
        return meet(other, 10)

    found = in_threads(lambda: meet(first, 10), stranger)
    assert all(isinstance(x, Team) for x in found)
    assert in_threads(*(lambda t=t: t.gather("x", t.index) for t in found)) == [[0, 1]] * 2
