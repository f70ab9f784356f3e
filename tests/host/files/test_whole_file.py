"""Files appear whole, after their contents are on the disk."""

import errno
import os

import pytest

from rlvr_jax.host.files import whole_file


@pytest.fixture
def calls(monkeypatch):
    """What is forced to the disk and renamed, in order; a folder fails with `calls.error`."""

    class Calls(list):
        error = 0

    calls = Calls()

    def fsync(file):
        path = os.readlink(f"/proc/self/fd/{file}")
        calls.append(("sync", os.path.basename(path)))
        if calls.error and os.path.isdir(path):
            raise OSError(calls.error, os.strerror(calls.error))

    def replace(old, new):
        calls.append(("rename", os.path.basename(new)))
        real_replace(old, new)

    real_replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    return calls


def test_contents_are_forced_to_the_disk_before_the_name(tmp_path, calls):
    path = tmp_path / "a.json"
    whole_file.write_whole(path, "one\ud800\n")
    assert path.read_text() == "one?\n" and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert calls == [("sync", "a.json.part"), ("rename", "a.json"), ("sync", tmp_path.name)]


def test_all_of_a_folder_is_forced_to_the_disk(tmp_path, calls):
    (tmp_path / "in").mkdir()
    for name in ("x", "in/y"):
        (tmp_path / name).write_text(name)
    whole_file.sync_folder(tmp_path)
    assert sorted(calls) == sorted(("sync", name) for name in ("x", "y", "in", tmp_path.name))


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_force_names_is_good_enough(tmp_path, calls, error):
    calls.error = error
    whole_file.write_whole(tmp_path / "a", "one")
    whole_file.sync_folder(tmp_path)
    assert (tmp_path / "a").read_text() == "one"


def test_a_disk_that_fails_is_told(tmp_path, calls):
    calls.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        whole_file.write_whole(tmp_path / "a", "one")
