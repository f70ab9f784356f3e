"""Replies of a judge on disk: a line each, only ever appended, so that a kill loses none."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def name_of(request: Mapping[str, Any], vote: int) -> str:
    """What a reply is kept under: all that it depends on, and which of the votes it is."""
    text = json.dumps([request, vote], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Replies:
    """A mapping from names to replies that outlives the process.  Threads may share it."""

    def __init__(self, path: Path):
        """Opens or makes the file; raises OSError where that cannot be done."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._found: dict[str, str] = {}
        old = path.read_bytes() if path.exists() else b""
        for line in old.splitlines():
            self._take(line)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if old and not old.endswith(b"\n"):  # killed within a line: it is lost, the next is not
            os.write(self._file, b"\n")

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str) -> str | None:
        return self._found.get(name)

    def put(self, name: str, reply: str) -> None:
        """Kept before this returns: one write of a whole line."""
        line = json.dumps({"name": name, "reply": reply}).encode() + b"\n"
        with self._lock:
            self._found[name] = reply
            while line:  # a full disk or a signal may take a part only
                line = line[os.write(self._file, line) :]

    def close(self) -> None:
        os.close(self._file)

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            name, reply = row["name"], row["reply"]
        except (ValueError, TypeError, KeyError):  # torn by a kill: it will be asked again
            return
        if isinstance(name, str) and isinstance(reply, str):
            self._found[name] = reply
