"""Encode values as plain data: JSON that passes between a program and its grader.

Both sides use these two functions: the grader imports them, and `grader` copies the text of this
file into the process of the program.  So the file imports nothing.  JSON has no tuples, sets,
bytes, complex numbers, or dictionaries with keys that are not text: each is encoded as a dictionary
whose only key is a tag.  An instance of a subclass (Counter, IntEnum, namedtuple) is encoded as a
value of its base class, without its methods; an iterator as its items; any other object as a number
that stands for the object.
"""

MAX_ITEMS = 1_000_000  # of an iterator, which may have no end
MAX_DIGITS = 30_000  # hexadecimal ones of a number


def encode(value, keep):
    """Encode a value as JSON holds it; `keep` returns the number of a value that is not plain data.

    Raises:
      ValueError: an iterator has more than MAX_ITEMS items.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        plain = int.__add__(value, 0)
        return plain if -(2**53) < plain < 2**53 else {"int": hex(plain)}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": value.hex()}
    if isinstance(value, list):
        return [encode(part, keep) for part in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [encode(part, keep) for part in tuple.__iter__(value)]}
    if isinstance(value, set | frozenset):
        return {"set": [encode(part, keep) for part in value]}
    if isinstance(value, dict):
        pairs = dict.items(value)
        return {"dict": [[encode(k, keep), encode(v, keep)] for k, v in pairs]}
    library = type(value).__module__ in ("builtins", "collections", "itertools", "array")
    if library and hasattr(value, "__iter__") and not isinstance(value, type):
        parts = []
        for part in value:
            parts.append(encode(part, keep))
            if len(parts) > MAX_ITEMS:
                raise ValueError("an iterator with too many items")
        return {"items": parts}
    return {"object": keep(value)}


def decode(data, items, find):
    """Decode the JSON that `encode` made into a value.

    `items` makes a value from the items of an iterator, and `find` from the number of an object.

    Raises:
      ValueError, TypeError: the data are not what `encode` makes.
    """
    if isinstance(data, list):
        return [decode(part, items, find) for part in data]
    if not isinstance(data, dict):
        return data
    ((tag, content),) = data.items()
    if tag == "int":
        if len(content) > MAX_DIGITS:
            raise ValueError("a number that is too long")
        return int(content, 16)
    if tag == "complex":
        return complex(*content)
    if tag == "bytes":
        return bytes.fromhex(content)
    if tag == "object":
        return find(content)
    if tag == "dict":
        pairs = [decode(pair, items, find) for pair in content]
        return dict(pairs)
    parts = [decode(part, items, find) for part in content]
    return {"tuple": tuple, "set": set, "items": items}[tag](parts)
