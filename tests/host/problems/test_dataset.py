"""The data hop: what goes in comes out, whatever is killed, resumed or damaged."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr_jax.host.problems import dataset

ROOT = Path(__file__).parents[3]


def row(number: int, **changes: str) -> dict[str, str]:
    """A record whose every field tells it apart from others."""
    return {field: f"{field} {number}" for field in dataset.FIELDS} | changes


def rows(count: int) -> list[dict[str, str]]:
    return [row(number) for number in range(count)]


def keys(batch: list[dict[str, str]]) -> list[str]:
    return [record["key"] for record in batch]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in a fresh interpreter that sees the repository."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- prepare and open_split ---------------------------------------------------------------------


def test_round_trip_keeps_order_and_text(tmp_path: Path) -> None:
    odd = ["", "∑ü漢字 👩‍🔬 e\u0301", "a\x00b\x00", "line\nline\r\n", " \t ", "x" * 100_000]
    train = [row(i, question=text) for i, text in enumerate(odd)]
    dataset.prepare(tmp_path, {"train": iter(train), "test": rows(1)}, "toy")
    source = dataset.open_split(tmp_path, "train")
    assert len(source) == len(train)
    assert [source[i] for i in range(len(source))] == train
    assert source[-1] == train[-1]
    assert list(source[0]) == list(dataset.FIELDS)  # the order, too
    with pytest.raises(IndexError):
        source[len(train)]
    assert dataset.open_split(tmp_path / "toy", "test")[0] == row(0)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]  # no folder for downloads


def test_prepare_twice_reads_nothing_and_changes_nothing(tmp_path: Path) -> None:
    def never() -> Iterator[dict[str, str]]:
        pytest.fail("the rows were read")
        yield row(0)

    dataset.prepare(tmp_path, {"train": rows(3)}, "toy")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    dataset.prepare(tmp_path, {"train": never()}, "toy")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ValueError, match=r"other splits \(train\)"):
        dataset.prepare(tmp_path, {"train": rows(3), "test": rows(1)}, "toy")


@pytest.mark.parametrize(
    ("splits", "name", "message"),
    [
        ({"test": rows(1), "train": []}, "toy", "split 'train' of problem set 'toy' is empty: "),
        ({}, "toy", "no splits"),
        ({"all": rows(1)}, "toy", "'all' cannot name"),
        ({"train": rows(1)}, "../toy", "'../toy' cannot name"),
        ({"train": [row(0), {"question": "?"}]}, "toy", "record 1 of split 'train'.*answer"),
        ({"train": [row(0, hint="")]}, "toy", "record 0 .*hint"),
        ({"train": [row(0) | {"answer": 7}]}, "toy", "answer must be text, not int"),
        ({"train": [row(0, answer="\ud800")]}, "toy", "answer is not Unicode"),
    ],
)
def test_prepare_refuses_and_leaves_nothing(
    tmp_path: Path, splits: Any, name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        dataset.prepare(tmp_path, splits, name)
    assert "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_kill_in_the_middle_leaves_nothing_complete(tmp_path: Path) -> None:
    code = """if True:
        import sys, time, pathlib
        from rlvr_jax.host.problems import dataset as data
        def slow():
            for i in range(10**6):
                if i == 500:
                    print("half way", flush=True)
                    time.sleep(60)
                yield {field: str(i) for field in data.FIELDS}
        first = [dict.fromkeys(data.FIELDS, "done")]
        data.prepare(pathlib.Path(sys.argv[1]), {"test": first, "train": slow()}, "toy")
    """
    process = python(code, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob("toy/incomplete.*"))  # it had begun to write
    with pytest.raises(FileNotFoundError, match="no complete problem set"):
        dataset.open_split(tmp_path, "test")
    dataset.prepare(tmp_path, {"train": rows(3), "test": rows(1)}, "toy")
    assert dataset.open_split(tmp_path, "train")[2] == row(2)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["2.0.0"]  # swept


def test_losing_a_race_is_not_an_error(tmp_path: Path) -> None:
    def overtaken() -> Iterator[dict[str, str]]:
        yield row(0)
        dataset.prepare(tmp_path, {"train": rows(2)}, "toy")  # somebody else, meanwhile
        yield row(1)

    dataset.prepare(tmp_path, {"train": overtaken()}, "toy")
    source = dataset.open_split(tmp_path, "train")
    assert [source[i] for i in range(2)] == rows(2)
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["2.0.0"]


def test_open_split_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        dataset.open_split(tmp_path / "nowhere", "train")
    dataset.prepare(tmp_path, {"train": rows(1)}, "toy")
    with pytest.raises(ValueError, match="no split 'test' .*: it has train"):
        dataset.open_split(tmp_path, "test")
    dataset.prepare(tmp_path, {"train": rows(1)}, "other")
    with pytest.raises(ValueError, match="add one of other, toy"):
        dataset.open_split(tmp_path, "train")


SHARD = "toy-train.array_record-00000-of-00001"


@pytest.mark.parametrize("name", [SHARD, "features.json", "dataset_info.json"])
@pytest.mark.parametrize("keep", [None, 0, 70_000])
def test_damaged_files_are_named(tmp_path: Path, name: str, keep: int | None) -> None:
    dataset.prepare(tmp_path, {"train": rows(300)}, "toy")
    path = tmp_path / "toy" / "2.0.0" / name
    if keep is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 2)])
    with pytest.raises(FileNotFoundError if keep is None else ValueError, match=name) as caught:
        dataset.open_split(tmp_path, "train")
    assert "\n" not in str(caught.value)


def test_damage_and_swapped_files_do_not_pass(tmp_path: Path) -> None:
    dataset.prepare(tmp_path, {"train": rows(300), "test": rows(2)}, "toy")
    path = tmp_path / "toy" / "2.0.0" / SHARD
    good = path.read_bytes()
    path.write_bytes(good[:20_000] + bytes([good[20_000] ^ 1]) + good[20_001:])
    source = dataset.open_split(tmp_path, "train")
    broken = []
    for number in range(300):
        try:
            assert source[number] == row(number)
        except ValueError as error:
            broken.append(str(error))
    assert len(broken) == 1  # one bit, one record, found by its checksum
    assert SHARD in broken[0]
    path.write_bytes(path.with_name(SHARD.replace("train", "test")).read_bytes())
    with pytest.raises(ValueError, match="2 records instead of 300"):
        dataset.open_split(tmp_path, "train")


def test_is_silent_and_never_imports_tensorflow(tmp_path: Path) -> None:
    # A TensorFlow that can be found but not imported: where it is installed, it stays unused too.
    trap = tmp_path / "trap" / "tensorflow" / "__init__.py"
    trap.parent.mkdir(parents=True)
    trap.write_text("print('imported')\nraise SystemExit(1)\n")
    code = """if True:
        import sys, pathlib, threading
        sys.path.insert(0, sys.argv[2])
        before = set(sys.modules)
        from rlvr_jax.host.problems import dataset as data
        heavy = {"grain", "jax", "numpy", "tensorflow_datasets"} & (set(sys.modules) - before)
        assert not heavy, heavy
        folder = pathlib.Path(sys.argv[1])
        rows = [{field: str(i) for field in data.FIELDS} for i in range(9)]
        data.prepare(folder, {"train": rows, "test": rows}, "toy")
        stream = data.batches(data.open_split(folder, "train"), 4, 0)
        [next(stream) for _ in range(5)]
        assert "tensorflow" not in sys.modules
        assert not [t for t in threading.enumerate() if "grain-prefetch" in t.name]
    """
    output, errors = python(code, tmp_path / "data", trap.parents[1]).communicate()
    assert (output, errors) == ("", "")


# -- batches ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> dataset.RandomAccessSource:
    """24 records from disk."""
    folder = tmp_path_factory.mktemp("problems")
    dataset.prepare(folder, {"train": rows(24)}, "toy")
    return dataset.open_split(folder, "train")


def take(count: int, stream: Any) -> list[list[str]]:
    return [keys(batch) for batch in itertools.islice(stream, count)]


def test_batches_are_lists_of_records(source: dataset.RandomAccessSource) -> None:
    batch = next(dataset.batches(source, 4, seed=0))
    assert isinstance(batch, list)
    assert len(batch) == 4
    assert all(record == row(int(record["key"].split()[1])) for record in batch)


def test_each_epoch_shows_every_record_once_in_an_order_of_its_own(
    source: dataset.RandomAccessSource,
) -> None:
    stream = dataset.batches(source, 4, seed=0)
    epochs = [sum(take(6, stream), []) for _ in range(4)]
    everything = sorted(row(i)["key"] for i in range(24))
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != [row(i)["key"] for i in range(24)]


def test_seed_decides_and_seeds_are_unrelated(source: dataset.RandomAccessSource) -> None:
    runs = {seed: take(24, dataset.batches(source, 4, seed=seed)) for seed in range(4)}
    assert take(24, dataset.batches(source, 4, seed=2)) == runs[2]
    epochs = [tuple(map(tuple, run[i : i + 6])) for run in runs.values() for i in range(0, 24, 6)]
    assert len(set(epochs)) == len(epochs)  # epoch 1 of one seed is not epoch 0 of the next


def test_the_remainder_is_dropped_and_changes(source: dataset.RandomAccessSource) -> None:
    stream = dataset.batches(source, 7, seed=0)
    epochs = [sum(take(3, stream), []) for _ in range(3)]
    assert [len(set(epoch)) for epoch in epochs] == [21, 21, 21]
    assert len({frozenset(epoch) for epoch in epochs}) > 1
    assert len(take(99, dataset.batches(source, 7, seed=0, repeat=False))) == 3


def test_restored_state_continues_with_the_next_batch(source: dataset.RandomAccessSource) -> None:
    steps = 24 // 4
    whole = take(4 * steps, dataset.batches(source, 4, seed=3))
    for done in (0, 1, steps - 1, steps, steps + 1, 3 * steps):
        first = dataset.batches(source, 4, seed=3)
        assert take(done, first) == whole[:done]
        saved = json.dumps(first.get_state())
        assert take(2, first) == whole[done : done + 2]  # saving does not disturb

        second = dataset.batches(source, 4, seed=3)
        take(2, second)  # nor does what the iterator did before
        second.set_state(json.loads(saved))
        assert json.dumps(second.get_state()) == saved
        assert take(4 * steps - done, second) == whole[done:]


def test_too_few_records_or_senseless_arguments_are_refused(
    source: dataset.RandomAccessSource,
) -> None:
    with pytest.raises(ValueError, match="there are 24 records, too few for one batch of 25"):
        dataset.batches(source, 25, seed=0)
    for batch_size, seed in [(0, 0), (1, -1), (1, 2**32)]:
        with pytest.raises(ValueError, match="out of range"):
            dataset.batches(source, batch_size, seed)


def test_a_list_of_records_is_a_source_too() -> None:
    assert sorted(sum(take(2, dataset.batches(rows(4), 2, seed=0)), [])) == sorted(keys(rows(4)))
