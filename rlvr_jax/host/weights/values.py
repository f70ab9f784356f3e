"""Values of model descriptions, checked for their types, and the error for what cannot be used."""

from typing import Any

from rlvr_jax.config import ModelConfig

Json = dict[str, Any]
LARGEST = 2**53  # a number up to here is exact in JSON


class WeightsError(ValueError):
    """A pretrained model cannot be used; the message says why and what to do."""


def typed(value: Any, ours: str, what: str) -> Any:
    """Return `value` in the type of the field `ours` of ModelConfig.

    An integer is a valid float, because JSON may write 100000 for 100000.0.  A list of numbers
    becomes a tuple of floats.

    Raises:
      WeightsError: the value has another type, or is not finite, or enormous; `what` names it in
        the message.
    """
    kind: Any = type(ModelConfig.__dataclass_fields__[ours].default)
    if kind is tuple:
        numbers: list[Any] = value if isinstance(value, list) else [None]
        if any(isinstance(x, bool) or not isinstance(x, int | float) for x in numbers):
            raise WeightsError(f"{what} is {value!r} and not a list of numbers")
        if any(not abs(x) <= LARGEST for x in numbers):
            raise WeightsError(f"{what} has a number beyond {LARGEST}, which no model has")
        return tuple(map(float, numbers))
    fits = {bool: bool, int: int, str: str}.get(kind, (int, float))
    if not isinstance(value, fits) or (kind is not bool and isinstance(value, bool)):
        raise WeightsError(f"{what} is {value!r} and not of type {kind.__name__}")
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise WeightsError(f"{what} is beyond {LARGEST}, which no model has")
    return kind(value)


def optional(config: Json, field: str, kind: type, where: str) -> Any:
    """Return a field that must be of type `kind` or absent; `where` names the file in errors.

    Raises:
      WeightsError: the field has another type.
    """
    if not isinstance(config.get(field), kind | None):
        raise WeightsError(f"{where}: field {field} is not a {kind.__name__}: correct it")
    return config.get(field)
