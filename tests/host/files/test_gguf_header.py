"""The header of a GGUF file: what the package `gguf` reads; what is not there is not waited for."""

import os
import struct
import time

import gguf
import numpy as np
import pytest

from rlvr_jax.host.files import gguf_header
from rlvr_jax.host.files.gguf_header import GgufError, load_header
from rlvr_jax.host.text.tokenizer import TokenizerError, open_tokenizer
from rlvr_jax.host.weights import WeightsError, load_architecture

STRING, ARRAY, UINT8, UINT32, FLOAT64 = 8, 9, 0, 4, 12
SECONDS = 10  # that refusing a hostile file may take


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def head(keys: int = 1, tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def array(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", ARRAY, kind, count) + data


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


@pytest.fixture
def made(tmp_path):
    """A file with a key of every type and tensors of three types."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    values = {"uint8": 200, "int8": -3, "uint16": 60_000, "int16": -3, "uint32": 1 << 31}
    values |= {"int32": -3, "uint64": 1 << 63, "int64": -3, "float32": 0.1, "float64": 0.1}
    for kind, value in {**values, "bool": True, "string": "é 👩‍👩‍👧"}.items():
        getattr(writer, f"add_{kind}")(f"a.{kind}", value)
    for key, value in {"i": [1, -2], "f": [0.5, 1e-9], "b": [True, False], "s": ["", "é"]}.items():
        writer.add_array(f"a.{key}", value)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("x", x)
    writer.add_tensor("half", x.astype(np.float16))
    writer.add_tensor("quantised", gguf.quants.quantize(x, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "m.gguf"


def same(path) -> None:
    """Compare everything with the reader of the package, which is not ours."""
    ours, theirs = load_header(path), gguf.GGUFReader(path)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == fields and len(fields) > 10
    assert [type(x) for x in ours.metadata.values()] == [type(x) for x in fields.values()]
    assert len(ours.tensors) == len(theirs.tensors) > 0
    for a, b in zip(ours.tensors, theirs.tensors, strict=True):
        assert (a.name, a.shape, a.tensor_type) == (b.name, tuple(b.shape), b.tensor_type)
        assert a.data.dtype == b.data.dtype and np.array_equal(a.data, b.data)


def test_the_header_is_what_the_package_reads(made) -> None:
    same(made)


@pytest.mark.slow
def test_the_header_of_smollm2_is_what_the_package_reads(smollm2_file) -> None:
    same(smollm2_file)


def refused(path, *words: str) -> None:
    """Both readers of GGUF files refuse it soon, in one sentence that names it."""
    for load, error in ((open_tokenizer, TokenizerError), (load_architecture, WeightsError)):
        start = time.monotonic()
        with pytest.raises(error) as raised:
            load(path)
        assert time.monotonic() - start < SECONDS
        said = str(raised.value)
        assert str(path) in said and "\n" not in said and all(x in said for x in words), said


MANY = gguf_header.ITEMS + 1
HOSTILE = {
    "strings that are not there": (
        head() + array("k", STRING, 1 << 20) + bytes(64),
        "cut short in k",
    ),
    "numbers that are not there": (head() + array("k", UINT8, 1 << 20), "cut short"),
    "2^31 strings": (head() + array("k", STRING, 1 << 31) + bytes(64), "k has 2,147,483,648"),
    "2^31 bytes": (head() + array("k", UINT8, 1 << 31) + bytes(64), "k has 2,147,483,648"),
    "2^64 - 1 numbers": (head() + array("k", FLOAT64, 2**64 - 1), "k has 18,446,744,073,709"),
    "one more than allowed": (head() + array("k", STRING, MANY), f"k has {MANY:,} elements"),
    "arrays of arrays": (head() + array("k", ARRAY, 9, struct.pack("<IQ", 9, 9) * 99), "arrays"),
    "a long text": (head() + text("k") + struct.pack("<IQ", STRING, 2**64 - 1), "cut short"),
    "a long key": (head() + struct.pack("<Q", 1 << 40), "cut short"),
    "2^63 keys": (head(1 << 63) + (text("k") + struct.pack("<II", UINT32, 1)) * 2, "'k' twice"),
    "2^63 tensors": (head(0, 1 << 63) + tensor("t", 1) * 2, "'t' twice"),
    "a type": (head() + text("k") + struct.pack("<I", 77), "unknown type 77"),
    "no texts": (head() + array("k", STRING, 1, text(b"\xff")), "in k that is not UTF-8"),
    "no text": (head() + text("k") + struct.pack("<I", STRING) + text(b"\xff"), "not UTF-8"),
    "version 1": (head(version=1), "of version 1"),
    "the other byte order": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "of version"),
    "dimensions": (head(0, 1) + tensor("t", *[1] * 5), "5 dimensions"),
    "2^62 elements": (head(0, 1) + tensor("t", 1 << 31, 1 << 31) + bytes(99), "tensor t ends"),
    "an offset": (head(0, 1) + tensor("t", 1, offset=1 << 63) + bytes(99), "tensor t ends"),
    "a type of tensor": (head(0, 1) + tensor("t", 32, kind=99) + bytes(99), "tensor t has"),
    "half a block": (head(0, 1) + tensor("t", 31, kind=8) + bytes(99), "tensor t has"),
    "alignment 0": (head() + text("general.alignment") + struct.pack("<II", 4, 0), "alignment"),
    "alignment 3": (head() + text("general.alignment") + struct.pack("<II", 4, 3), "alignment"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_soon(tmp_path, name) -> None:
    content, words = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    if name.startswith(("2^31", "one")):  # as if all of it were there: zeros that take no disk
        os.truncate(path, 1 << 35)
    refused(path, words)


def test_as_many_strings_as_are_allowed_take_seconds(tmp_path) -> None:
    path = tmp_path / "many.gguf"
    path.write_bytes(head(2) + array("k", STRING, gguf_header.ITEMS))
    os.truncate(path, 1 << 35)
    refused(path)


def test_a_header_without_end_is_refused(tmp_path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(head() + text("k") + struct.pack("<IQ", STRING, gguf_header.BYTES))
    os.truncate(path, 1 << 35)
    refused(path, "longer than 256 MiB")


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(GgufError, match="it is empty"):
        load_header(tmp_path / "pipe.gguf")


def test_a_file_that_is_cut_anywhere_is_refused(made, tmp_path) -> None:
    whole = made.read_bytes()
    path = tmp_path / "cut.gguf"
    for size in range(0, len(whole) - 64, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(GgufError):
            load_header(path)


def test_noise_in_the_header_is_read_or_refused(made, tmp_path) -> None:
    rng, whole = np.random.default_rng(3), made.read_bytes()
    path = tmp_path / "noise.gguf"
    refusals = 0
    for _ in range(500):
        data = bytearray(whole)
        for at in rng.integers(0, 900, 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_header(path)
        except GgufError:
            refusals += 1
    assert 100 < refusals < 500
