"""The filter of system calls, run by a small interpreter of the filter language."""

import struct

import pytest

from rlvr_jax.host.workers import system_calls

MACHINES = ["x86_64", "aarch64"]
FORBIDDEN = {  # from linux/unistd.h
    "x86_64": {"socket": 41, "connect": 42, "ptrace": 101, "mount": 165, "add_key": 248}
    | {"request_key": 249, "keyctl": 250, "unshare": 272, "setns": 308, "process_vm_readv": 310}
    | {"bpf": 321, "userfaultfd": 323, "io_uring_setup": 425, "pidfd_open": 434},
    "aarch64": {"socket": 198, "connect": 203, "ptrace": 117, "mount": 40, "add_key": 217}
    | {"request_key": 218, "keyctl": 219, "unshare": 97, "setns": 268, "process_vm_readv": 270}
    | {"bpf": 280, "userfaultfd": 282, "io_uring_setup": 425, "pidfd_open": 434},
}


def answer(code: bytes, architecture: int, number: int, first: int = 0) -> int:
    """Return what the kernel would answer to a call."""
    data = {0: number, 4: architecture, 16: first}
    steps = list(struct.iter_unpack("=HBBI", code))
    accumulator = at = 0
    while True:
        kind, if_true, if_false, value = steps[at]
        at += 1
        if kind == 0x20:
            accumulator = data[value]
        elif kind == 0x06:
            return value
        else:
            holds = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[kind]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_calls_of_the_table_pass(machine):
    code, own = system_calls.write_filter(machine), system_calls.AUDIT[machine]
    allowed = set(system_calls.allowed(machine).values())
    for number in range(600):
        expected = system_calls.ALLOW if number in allowed else system_calls.REFUSE | 1
        if number == system_calls.CLONE3:
            expected = system_calls.REFUSE | 38
        assert answer(code, own, number) == expected, number
    assert not allowed & set(FORBIDDEN[machine].values())


@pytest.mark.parametrize("machine", MACHINES)
def test_a_process_may_be_made_but_no_namespace(machine):
    code, own = system_calls.write_filter(machine), system_calls.AUDIT[machine]
    clone = system_calls.CLONE[machine]
    thread = 0x003D0F00  # the flags of pthread_create
    assert answer(code, own, clone, thread) == answer(code, own, clone, 17) == system_calls.ALLOW
    for bit in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(code, own, clone, bit | 17) == system_calls.REFUSE | 1


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_of_another_architecture_kill(machine):
    code = system_calls.write_filter(machine)
    assert answer(code, 0x40000003, 1) == system_calls.KILL  # i386
    assert answer(code, system_calls.AUDIT[machine], 0x40000000 + 41) == system_calls.REFUSE | 1


def test_another_machine_has_no_filter():
    assert system_calls.write_filter("riscv64") == b""
