"""The inside of `sandbox`: run as a script, with nothing of this package, it walls itself in.

Where the kernel permits it (root, or user namespaces): a network, process, message and mount
namespace of its own, a root folder that holds the interpreter read-only and a small scratch
folder, no privileges, another user.  When the first process of the namespace ends, the kernel
kills all others: daemons and fork bombs too.  Then limits, and the program.

It is started as `python -I -S jail.py JSON`, with limits and the program's file, and replaces
itself by the program.  Before that it writes one byte to the descriptor `ready`: b"w" for walls,
b"-" for limits only.
"""

import ctypes
import json
import os
import resource
import signal
import sys

NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
NO_NEW_PRIVS, PDEATHSIG, DUMPABLE = 38, 1, 4
NOBODY = 65534


def main() -> None:
    asked = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux":
        libc.prctl(PDEATHSIG, signal.SIGKILL)  # the program does not outlive who asked for it
    walled = asked["walls"] and sys.platform == "linux" and _wall(libc, asked)
    if asked["walls"] == "required" and not walled:
        os._exit(97)
    os.write(asked["ready"], b"w" if walled else b"-")
    os.close(asked["ready"])
    if walled:
        _fork_and_wait()  # the first process of the new process namespace goes on
        libc.prctl(PDEATHSIG, signal.SIGKILL)
        libc.prctl(DUMPABLE, 0)
        os.chroot(asked["root"])
        os.chdir("/work")
        _fork_and_wait()  # it is ours and stays in our group: when it is killed, all others are
        _drop(libc)
    else:
        os.chdir(asked["folder"])
    _limit(asked, walled)
    program = "/work" if walled else asked["folder"]
    env = {"PATH": "/usr/bin:/bin", "HOME": program, "TMPDIR": program, "LANG": "C.UTF-8"}
    command = [sys.executable, "-I", "-S", f"{program}/program.py"]
    os.execve(sys.executable, command, env)


def _wall(libc: ctypes.CDLL, asked: dict) -> bool:
    """New namespaces and a new root; False, with nothing changed but namespaces, if refused."""
    user, group = os.geteuid(), os.getegid()
    spaces = NEWNS | NEWIPC | NEWPID | NEWNET
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
            libc, "none", asked["root"], "tmpfs", NOSUID | NODEV, f"size={asked['files']},mode=755"
        )
        for path in asked["mounts"]:
            inner = asked["root"] + path
            os.makedirs(inner, exist_ok=True)
            _mount(libc, path, inner, None, BIND | REC)
            _mount(libc, path, inner, None, BIND | REMOUNT | RDONLY | NOSUID | _flags(path))
        work = asked["root"] + "/work"
        os.makedirs(work)
        with open(asked["folder"] + "/program.py", "rb") as program:
            with open(work + "/program.py", "wb") as copy:
                copy.write(program.read())
        os.chmod(work, 0o777)
        for link, target in asked["links"]:
            if not os.path.lexists(asked["root"] + link):
                os.symlink(target, asked["root"] + link)
    except OSError:
        return False
    return True


def _flags(path: str) -> int:
    """Flags that a mount has already: inside a user namespace they must be repeated."""
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
    """Go on in a child; the parent ends as the child does."""
    child = os.fork()
    if not child:
        return
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _drop(libc: ctypes.CDLL) -> None:
    """No capabilities: another user for root; inside a user namespace exec of a non-root drops."""
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    try:  # a user of its own: processes are limited, and counted, by user
        own = 200_000 + int.from_bytes(os.urandom(3), "little") % 1_000_000
        os.setresuid(own, own, own)
    except OSError:
        os.setresuid(NOBODY, NOBODY, NOBODY)


def _limit(asked: dict, walled: bool) -> None:
    seconds = asked["cpu"]
    limits = [
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, asked["memory"], asked["memory"]),
        (resource.RLIMIT_FSIZE, asked["files"], asked["files"]),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ]
    if walled or os.geteuid() != 0:  # else it would count, and stop, processes of others
        limits.append((resource.RLIMIT_NPROC, asked["processes"], asked["processes"]))
    for what, soft, hard in limits:
        try:
            resource.setrlimit(what, (soft, hard))
        except (ValueError, OSError):  # a limit that is lower already
            pass


if __name__ == "__main__":
    main()
