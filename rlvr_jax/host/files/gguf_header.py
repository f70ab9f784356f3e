"""The header of a GGUF file: its metadata, and where its tensors lie.

The format is that of `ggml/docs/gguf.md`: all counts and lengths are numbers in the file, so each
of them is compared with the size of the file, and with a limit, before anything is read.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFValueType as Value
from gguf.quants import quant_shape_to_byte_shape

ITEMS = 1 << 21  # elements of all arrays together; the largest vocabularies need a million
BYTES = 1 << 28  # of the header; it is below 20 MB in the largest models
_VERSIONS = (2, 3)
_DIMENSIONS = 4  # of a tensor, as in ggml
_NUMBERS = {
    Value.UINT8: "<u1",
    Value.INT8: "<i1",
    Value.UINT16: "<u2",
    Value.INT16: "<i2",
    Value.UINT32: "<u4",
    Value.INT32: "<i4",
    Value.FLOAT32: "<f4",
    Value.UINT64: "<u8",
    Value.INT64: "<i8",
    Value.FLOAT64: "<f8",
    Value.BOOL: "?",
}
_PLAIN = {Kind.F32: "<f4", Kind.F16: "<f2"}


class GgufError(ValueError):
    """A GGUF file is damaged, cut short, of another format, or too large to be what it says."""


@dataclass(frozen=True)
class Tensor:
    """A `Tensor` is a tensor on disk, quantised as its type says.

    `shape` counts elements, fastest dimension first as in the file; `data` is the mapped file:
    numbers for F32 and F16, else bytes, slowest dimension first.
    """

    name: str
    shape: tuple[int, ...]
    tensor_type: Kind
    data: np.ndarray


@dataclass(frozen=True)
class Header:
    """A `Header` is everything that a GGUF file says before its tensors."""

    metadata: dict[str, Any]
    tensors: list[Tensor]


def load_header(path: Path) -> Header:
    """Load the header of a GGUF file; tensors stay on disk.

    Raises:
      GgufError: the file is no GGUF file, or is damaged.
      OSError: the file cannot be opened.
    """
    if not path.is_file() or not path.stat().st_size:
        raise GgufError("it is empty")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    cursor = _Cursor(data)
    if cursor.take(4) != b"GGUF":
        raise GgufError("it does not begin with GGUF")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise GgufError(f"it is of version {version} and not 2 or 3")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.text()
        if key in metadata:
            raise GgufError(f"it has the key {key!r} twice")
        metadata[key] = cursor.value(key)
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(tensors):
        name = cursor.text()
        if name in infos:
            raise GgufError(f"it has the tensor {name!r} twice")
        infos[name] = (cursor.shape(name), cursor.number("<I"), cursor.number("<Q"))
    align = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(align) is not int or align < 1 or align & (align - 1):
        raise GgufError(f"its alignment is {align} and no power of two")
    start = -(-cursor.at // align) * align
    return Header(metadata, [_tensor(data, start, name, *info) for name, info in infos.items()])


class _Cursor:
    """A `_Cursor` reads the header from its beginning to its end, within the limits."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._end = data, len(data)
        self._items = 0
        self.at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        if size > self._end - self.at:
            raise GgufError("it is cut short, or says a length that is not there")
        if self.at + size > BYTES:
            raise GgufError(f"its header is longer than {BYTES >> 20} MiB")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        """Return the next number, in a format of `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        """Return the next text."""
        data = self.take(self.number("<Q"))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise GgufError(f"it has a text that is not UTF-8 before byte {self.at}") from None

    def value(self, key: str) -> Any:
        """Return the value of a key: a number, a text, or a list of one of these."""
        kind = self._kind(key)
        if kind == Value.STRING:
            return self.text()
        if kind in _NUMBERS:
            return self._numbers(kind, 1)[0]
        inner, count = self._kind(key), self.number("<Q")
        self._items += count
        if self._items > ITEMS:
            raise GgufError(f"{key} has {count:,} elements, and all arrays may have {ITEMS:,}")
        if inner == Value.STRING:
            return self._texts(key, count)
        if inner not in _NUMBERS:
            raise GgufError(f"{key} is an array of arrays")
        return self._numbers(inner, count)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        count = self.number("<I")
        if count > _DIMENSIONS:
            raise GgufError(f"tensor {name} has {count} dimensions")
        return tuple(self.number("<Q") for _ in range(count))

    def _texts(self, key: str, count: int) -> list[str]:
        """Return the texts of an array: as `text` does, without a call for each of a million."""
        data, at, end = self._data, self.at, min(self._end, BYTES)
        length, texts = struct.Struct("<Q"), []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length.unpack_from(data, at)[0]
                if at > end:
                    raise GgufError(f"it is cut short, or too long, in {key}")
                texts.append(data[start:at].decode())
        except struct.error:
            raise GgufError(f"it is cut short in {key}") from None
        except UnicodeDecodeError:
            raise GgufError(f"it has a text in {key} that is not UTF-8") from None
        self.at = at
        return texts

    def _kind(self, key: str) -> Value:
        kind = self.number("<I")
        if kind not in {*_NUMBERS, Value.STRING, Value.ARRAY}:
            raise GgufError(f"{key} is of the unknown type {kind}")
        return Value(kind)

    def _numbers(self, kind: Value, count: int) -> list[Any]:
        form = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * form.itemsize), form).tolist()


def _tensor(
    data: mmap.mmap, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int
) -> Tensor:
    """Return a tensor that lies `offset` bytes after `start`, within the file."""
    try:
        quantised = Kind(kind)
        if quantised in _PLAIN:
            form, outer = np.dtype(_PLAIN[quantised]), shape[::-1]
        else:
            form, outer = np.dtype(np.uint8), quant_shape_to_byte_shape(shape[::-1], quantised)
    except (ValueError, IndexError) as error:
        raise GgufError(f"tensor {name} has an unknown type or size: {error}") from None
    count = math.prod(outer)
    if start + offset + count * form.itemsize > len(data):
        raise GgufError(f"it is cut short: tensor {name} ends beyond it")
    array = np.frombuffer(data, form, count, start + offset) if count else np.empty(0, form)
    return Tensor(name, shape, quantised, array.reshape(outer))
