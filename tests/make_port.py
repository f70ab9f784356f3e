"""A port for the processes of a test that meet."""

import contextlib
import socket


def free_port() -> int:
    """Return the second of two free ports: processes meet at the one before the coordinator's."""
    while True:
        with socket.create_server(("", 0)) as one:
            port = one.getsockname()[1]
            with contextlib.suppress(OSError), socket.create_server(("", port + 1)):
                return port + 1
