"""A real file system for tests: it can be filled, and it can turn read-only under a process."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A Disk is an ext4 file system in a file, mounted at `folder`.

    A process that has files open for writing keeps a file system from being mounted read-only;
    what happens in practice is that the kernel finds an error and refuses all further writes, and
    loses what was not on the disk yet. `fail` does that.
    """

    def __init__(self, home: Path, megabytes: int = 256, inodes: int = 8192):
        self.folder, self._image, self._held = home / "disk", home / "disk.img", None
        self._ballast = self.folder / "ballast"
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        make = ["mkfs.ext4", "-q", "-m", "0", "-N", str(inodes), str(self._image)]
        try:
            subprocess.run(make, check=True, capture_output=True)
            self._mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"mounting a file system is not allowed here: {error}")

    def _mount(self) -> None:
        command = ["mount", "-o", "loop", str(self._image), str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    def fill(self, left: int = 0) -> None:
        """Leave room for so many bytes."""
        free = os.statvfs(self.folder)
        size = max(0, free.f_bavail * free.f_frsize - left)
        with self._ballast.open("wb", buffering=0) as file:  # or else `close` writes once more
            with contextlib.suppress(OSError):  # the last blocks are needed for the map of blocks
                os.posix_fallocate(file.fileno(), 0, size)
            with contextlib.suppress(OSError):
                while size and not left:
                    file.seek(0, os.SEEK_END)
                    file.write(b"x" * 1024)

    def fill_inodes(self, left: int = 0) -> None:
        """Leave room for so many files, whatever their size."""
        self._held = self.folder / "many"
        self._held.mkdir()
        made = []
        with contextlib.suppress(OSError):
            while True:
                made.append(self._held / str(len(made)))
                made[-1].touch()
        for path in made[:left]:
            path.unlink(missing_ok=True)

    def empty(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)
        if self._held is not None:
            for path in self._held.iterdir():
                path.unlink()
            self._held.rmdir()
            self._held = None

    def fail(self) -> None:
        """Refuse every further write, as after an error of the disk."""
        command = ["mount", "-o", "remount,abort", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)

    def mend(self) -> None:
        """Repair the file system and mount it again; no process may use it."""
        self.close()
        subprocess.run(["e2fsck", "-fy", str(self._image)], check=False, capture_output=True)
        self._mount()

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True, capture_output=True)
