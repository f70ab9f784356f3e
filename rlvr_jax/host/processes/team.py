"""A team is the processes of a run, connected so that they know of each other's values and ends.

The first process holds a TCP connection to every other one, at the port before the coordinator's.
The kernel closes it when a process dies, and within half a minute when its host is gone, so no
process waits for one that will never come.  (`jax.distributed` notices too, but only kills.)

What goes over a connection is one JSON object on a line:

    {"hello": {"index", "count", "host"}}     from another process, once
    {"at": name, "value": x}                  a value of another process
    {"at": name, "values": [x, ...]}          the values of all, from the first process
    {"end": code, "why": sentence}            the end of a process, and then of all
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from rlvr_jax.host.processes.place import Place

AGAIN = 75  # exit code: wants to be run again
WAIT = 3600.0  # seconds for all processes to reach one point: they may wait for a judge
NEWS = 3.0  # seconds in which the death of one process shows itself to the others
LONGEST = 1 << 28  # bytes of a message
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 25_000}

Say = Callable[[str], None]


class TeamError(RuntimeError):
    """A TeamError means that the processes of a run cannot work together; it says why."""


class Link:
    """A `Link` is a connection to one other process, with a queue of the values that came."""

    def __init__(self, connection: socket.socket, host: str, index: int):
        self.host, self.index = host, index
        self.values: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._connection, self._lock = connection, threading.Lock()
        self._lines = connection.makefile("rb")
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; a connection that is gone is left to the reader to notice."""
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Return the next message; None if the connection is gone."""
        try:
            message = json.loads(self._lines.readline(LONGEST))
        except (OSError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) else None


class Team:
    """A `Team` is this process among the `count` processes of a run; `index` is its number.

    The default is a process alone.  All processes call `gather`, `share` and `close` in the same
    order.
    """

    def __init__(self, index: int = 0, count: int = 1, links: list[Link] | None = None):
        self.index, self.count = index, count
        self._links = links or []
        self._closing = False
        self._ending = threading.Lock()
        for link in self._links:
            threading.Thread(target=self._read, args=(link,), daemon=True).start()

    @property
    def first(self) -> bool:
        """Return whether this is the process that writes the files of the run."""
        return self.index == 0

    def gather(self, at: str, value: Any) -> list[Any]:
        """Return the values of all processes, in their order; values are plain JSON.

        `at` names the point of the program, which all processes have to reach.

        Raises:
          TeamError: a process did not come within `WAIT` seconds, or is at another point.
        """
        if self.count == 1:
            return [value]
        if not self.first:
            self._links[0].send({"at": at, "value": value})
            return self._next(self._links[0], at)["values"]
        values = [value, *(self._next(link, at)["value"] for link in self._links)]
        for link in self._links:
            link.send({"at": at, "values": values})
        return values

    def share(self, at: str, value: Callable[[], Any]) -> Any:
        """Return to all processes what `value` returns in the first one, which alone calls it."""
        return self.gather(at, value() if self.first else None)[0]

    def end(self, code: int, why: str, say: Say) -> int:
        """End all processes with an exit code and one sentence; alone, say it and return the code.

        The first process says the sentence, whichever process it comes from.
        """
        if self.count == 1:
            say(why)
            return code
        if code != AGAIN or not self.first:
            # What looks like an error here may be the death of another process, and all agree
            # that they stop: the first one says so.
            time.sleep(NEWS)
        if self.first:
            self._end_all(code, why, say)
        self._links[0].send({"end": code, "why": why})
        time.sleep(2 * NEWS)  # the first process answers with the end of all
        say(why)
        self._leave(code)

    def close(self) -> None:
        """Wait for all processes to come to the end of their work."""
        self.gather("the end", None)
        self._closing = True
        self.gather("the very end", None)

    def _next(self, link: Link, at: str) -> dict[str, Any]:
        who = f"process {link.index} on {link.host}"
        try:
            message = link.values.get(timeout=WAIT)
        except queue.Empty:
            raise TeamError(f"{who} did not come to {at!r} within {WAIT:.0f} s") from None
        if message.get("at") != at:
            raise TeamError(f"{who} is at {message.get('at')!r} and process {self.index} at {at!r}")
        return message

    def _read(self, link: Link) -> None:
        """Read a connection until it ends, in a thread of its own."""
        while (message := link.receive()) is not None:
            if "end" not in message:
                link.values.put(message)
            elif self.first:
                who = f"process {link.index} on {link.host}: "
                why = message["why"].removeprefix("error: ")
                self._end_all(message["end"], who + why, say_aside)
            else:
                self._leave(message["end"])
        if self._closing:
            return
        who = f"process {link.index} of {self.count} on {link.host}"
        why = f"{who} is gone without a word; the same command goes on from the last checkpoint"
        if self.first:
            self._end_all(AGAIN, why, say_aside)
        say_aside(why)
        self._leave(AGAIN)

    def _end_all(self, code: int, why: str, say: Say) -> NoReturn:
        with self._ending:  # the first that comes here ends the process
            say(why)
            for link in self._links:
                link.send({"end": code, "why": ""})
            self._leave(code)

    def _leave(self, code: int) -> NoReturn:
        # Nothing waits: other threads may be inside a collective operation that never ends.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def meet(place: Place, timeout: float) -> Team:
    """Connect the processes of a run; return when all are connected.

    Raises:
      TeamError: not all processes came within `timeout` seconds, the port is in use, or two
        processes have one number.
    """
    if place.count == 1:
        return Team()
    host, _, port = place.coordinator.rpartition(":")
    end = time.monotonic() + timeout
    if place.index:
        link = _reach(host.strip("[]"), int(port) - 1, end, timeout)
        hello = {"index": place.index, "count": place.count, "host": socket.gethostname()}
        link.send({"hello": hello})
        return Team(place.index, place.count, [link])
    try:
        server = socket.create_server(("", int(port) - 1))
    except OSError as error:
        reason = error.strerror or error
        raise TeamError(
            f"port {int(port) - 1} of the coordinator cannot be used: {reason}"
        ) from None
    with server:
        return Team(0, place.count, _await_others(server, place.count, end, timeout))


def _reach(host: str, port: int, end: float, timeout: float) -> Link:
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=5)
            return Link(connection, host, 0)
        except OSError as error:
            if time.monotonic() > end:
                raise TeamError(
                    f"no process 0 at {host}, port {port}, within {timeout:.0f} s "
                    f"({error.strerror or error}): start it there, or correct the coordinator"
                ) from None
        time.sleep(0.2)


def _await_others(server: socket.socket, count: int, end: float, timeout: float) -> list[Link]:
    links: dict[int, Link] = {}
    while len(links) < count - 1:
        server.settimeout(max(0.01, end - time.monotonic()))
        try:
            connection, address = server.accept()
        except TimeoutError:
            missing = ", ".join(str(i) for i in range(1, count) if i not in links)
            why = f"only {len(links) + 1} of {count} processes came within {timeout:.0f} s: "
            raise _refusal(links, f"{why}there is no process {missing}") from None
        hello = _greet(connection)
        if hello is None:  # a stranger at this port
            connection.close()
            continue
        index, theirs = hello["index"], hello["count"]
        if theirs != count or index in links or not 0 < index < count:
            raise _refusal(
                links | {-1: Link(connection, address[0], index)},
                f"process {index} of {theirs} on {hello['host']} is not one of the {count} that "
                "process 0 waits for, or comes twice: correct processes.count and index",
            )
        links[index] = Link(connection, hello["host"], index)
    return [links[index] for index in sorted(links)]


def _greet(connection: socket.socket) -> dict[str, Any] | None:
    """Read the first message of a process; None if this is none of ours."""
    connection.settimeout(5)
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) < 4096 and (byte := connection.recv(1)):
            data += byte
        hello = json.loads(data)["hello"]
        known = isinstance(hello["index"], int) and isinstance(hello["count"], int)
        return hello if known and isinstance(hello["host"], str) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _refusal(links: dict[int, Link], why: str) -> TeamError:
    """Return the error of a meeting that fails, after telling those who came."""
    for link in links.values():
        link.send({"end": 2, "why": why})
    return TeamError(why)


def say_aside(text: str) -> None:
    """Print an error on standard error."""
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {text}", file=sys.stderr, flush=True)
