"""This module stores the replies of a judge in an append-only file of JSON lines.

A killed process loses no reply that was stored; a line that it left incomplete is skipped.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def reply_key(request: Mapping[str, Any], vote: int) -> str:
    """Return the key of a reply: a hash of the request and of the number of the vote."""
    text = json.dumps([request, vote], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Replies:
    """`Replies` is a persistent mapping from keys to replies, which threads may share."""

    def __init__(self, path: Path):
        """Open or create the file; raise OSError if that fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        self._cut: set[str] = set()
        old = path.read_bytes() if path.exists() else b""
        for line in old.splitlines():
            self._load_line(line)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if old and not old.endswith(b"\n"):  # ends the incomplete line of a killed process
            os.write(self._file, b"\n")

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, name: str) -> str | None:
        """Return the reply of a key, or None."""
        return self._replies.get(name)

    def is_cut(self, name: str) -> bool:
        """Return whether the reply of a key was cut off by its limit of tokens."""
        return name in self._cut

    def put(self, name: str, reply: str, cut: bool = False) -> None:
        """Store a reply; it is on the disk before this method returns; it may have cost money."""
        row = {"name": name, "reply": reply} | ({"cut": True} if cut else {})
        line = json.dumps(row).encode() + b"\n"
        with self._lock:
            self._replies[name] = reply
            self._cut |= {name} if cut else set()
            while line:  # a full disk or a signal can end a write early
                line = line[os.write(self._file, line) :]
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _load_line(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            name, reply, cut = row["name"], row["reply"], row.get("cut") is True
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
        ):  # incomplete: the reply will be requested again
            return
        if isinstance(name, str) and isinstance(reply, str):
            self._replies[name] = reply
            self._cut |= {name} if cut else set()
