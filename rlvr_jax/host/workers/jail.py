"""Close the process of one sandboxed program off, then replace the process by the program.

`sandbox` runs this file as a script, `python -I -S jail.py JSON`, and the file imports nothing of
this package.  The JSON holds the limits and the folder of the program.

Where the kernel permits it (root, or user namespaces), the process closes itself off by walls.
Walls are network, process, message and mount namespaces of its own, a root folder that holds the
interpreter read-only and a small writable folder, no privileges, and another user.  When the first
process of the process namespace ends, the kernel kills all others, daemons and fork bombs too.
Then the process sets its limits, takes a new session keyring, permits itself only the system calls
of a filter, and replaces itself by the program.  Before that it writes one byte to the descriptor
`ready`: b"w" with walls, b"-" with limits only.
"""

import ctypes
import json
import os
import resource
import signal
import sys

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
NO_NEW_PRIVS, PDEATHSIG, DUMPABLE, SECCOMP, FILTER = 38, 1, 4, 22, 2
NOBODY = 65534
INSIDE = "/folder_of_the_program"  # a name that no folder of an interpreter has


def main() -> None:
    """Read the settings from the command line, set up walls and limits, and become the program."""
    settings = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if settings["group"]:
        with open(settings["group"] + "/cgroup.procs", "w") as group:
            group.write(f"{os.getpid()}")
    if sys.platform == "linux":
        libc.prctl(PDEATHSIG, signal.SIGKILL)  # the program does not outlive its owner
    walled = settings["walls"] and sys.platform == "linux" and _wall(libc, settings)
    if settings["walls"] == "required" and not walled:
        os._exit(97)
    os.write(settings["ready"], b"w" if walled else b"-")
    os.close(settings["ready"])
    if walled:
        _fork_and_wait()  # go on as the first process of the new process namespace
        libc.prctl(PDEATHSIG, signal.SIGKILL)
        libc.prctl(DUMPABLE, 0)
        os.chroot(settings["root"])
        os.chdir(INSIDE)
        _fork_and_wait()  # the first process stays in this group: its death kills all others
        _drop(libc)
    else:
        os.chdir(settings["folder"])
    _limit(settings, walled)
    if settings["filter"] and not _filter(libc, settings) and settings["walls"] == "required":
        os._exit(97)
    program = INSIDE if walled else settings["folder"]
    env = {"PATH": "/usr/bin:/bin", "HOME": program, "TMPDIR": program, "LANG": "C.UTF-8"}
    command = [sys.executable, "-I", "-S", f"{program}/program.py"]
    os.execve(sys.executable, command, env)


def _wall(libc: ctypes.CDLL, settings: dict) -> bool:
    """Enter new namespaces and fill a new root folder.

    Returns False if the kernel refuses, with nothing changed but namespaces.
    """
    user, group = os.geteuid(), os.getegid()
    spaces = NEWNS | NEWIPC | NEWNET
    if user != 0 or libc.unshare(spaces) != 0:
        if libc.unshare(spaces | NEWUSER) != 0:
            return False
        try:
            _write("/proc/self/setgroups", "deny")
            _write("/proc/self/uid_map", f"{NOBODY} {user} 1")
            _write("/proc/self/gid_map", f"{NOBODY} {group} 1")
        except OSError:
            return False
    try:
        _mount(libc, "none", "/", None, REC | PRIVATE)
        _mount(
            libc,
            "none",
            settings["root"],
            "tmpfs",
            NOSUID | NODEV,
            f"size={settings['files']},mode=755",
        )
        for path in settings["mounts"]:
            inner = settings["root"] + path
            os.makedirs(inner, exist_ok=True)
            _mount(libc, path, inner, None, BIND | REC)
            _mount(libc, path, inner, None, BIND | REMOUNT | RDONLY | NOSUID | _flags(path))
        work = settings["root"] + INSIDE
        os.makedirs(work)
        with open(settings["folder"] + "/program.py", "rb") as program:
            with open(work + "/program.py", "wb") as copy:
                copy.write(program.read())
        os.chmod(work, 0o777)
        for link, target in settings["links"]:
            if not os.path.lexists(settings["root"] + link):
                os.symlink(target, settings["root"] + link)
    except OSError:
        return False
    # Last, because a process that has done this and stays what it is can start no thread.
    return libc.unshare(NEWPID) == 0


def _flags(path: str) -> int:
    """Return the flags of an existing mount: inside a user namespace they must be repeated."""
    have = os.statvfs(path).f_flag
    return have & (NODEV | 8 | 1024 | 2048)  # ST_NODEV, NOEXEC, NOATIME, NODIRATIME


def _mount(
    libc: ctypes.CDLL, what: str, to: str, kind: str | None, flags: int, data: str = ""
) -> None:
    encoded = [None if x is None else x.encode() for x in (what, to, kind)]
    if libc.mount(*encoded, ctypes.c_ulong(flags), data.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {to}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _fork_and_wait() -> None:
    """Return in a child process; the parent waits for the child and ends with its exit code."""
    child = os.fork()
    if not child:
        return
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _drop(libc: ctypes.CDLL) -> None:
    """Give up privileges: root becomes another user; in a user namespace, exec drops them."""
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    try:  # a user of its own, because the kernel counts and limits processes by user
        own = 200_000 + int.from_bytes(os.urandom(3), "little") % 1_000_000
        os.setresuid(own, own, own)
    except OSError:
        os.setresuid(NOBODY, NOBODY, NOBODY)


class _Program(ctypes.Structure):  # struct sock_fprog
    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(libc: ctypes.CDLL, settings: dict) -> bool:
    """Leave the keyring of the parent, and let the kernel refuse all calls that no test needs."""
    instructions = bytes.fromhex(settings["filter"])
    libc.syscall(settings["join_session"], 1, None)  # a kernel without keyrings refuses: no harm
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(instructions) // 8, instructions)
    return libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0) == 0


def _limit(settings: dict, walled: bool) -> None:
    seconds = settings["seconds"]
    limits = [
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, settings["memory"], settings["memory"]),
        (resource.RLIMIT_FSIZE, settings["files"], settings["files"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ]
    if walled or os.geteuid() != 0:  # else the limit would count processes of others
        limits.append((resource.RLIMIT_NPROC, settings["processes"], settings["processes"]))
    for what, soft, hard in limits:
        try:
            resource.setrlimit(what, (soft, hard))
        except (ValueError, OSError):  # a limit that is lower already
            pass


if __name__ == "__main__":
    main()
