"""Pickles of plain containers, numbers, text and numeric arrays; anything else is refused.

A pickle is a program. Here it can build lists, tuples, dictionaries, sets, numbers and text, and
describe numeric numpy arrays, which are made afterwards of their bytes; it can name no function
and no class of ours to call.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError


def load_plain(path: Path) -> Any:
    """Read a pickle that holds plain containers; raises BenchError for any other content."""
    try:
        with path.open("rb") as file:
            return _finished(_PlainUnpickler(file, encoding="latin1").load())
    except FileNotFoundError as error:
        raise BenchError(f"{path} is not there") from error
    except Exception as error:  # a broken or hostile pickle fails in many ways
        raise BenchError(
            f"{path} cannot be read ({type(error).__name__}: {error}); expected a pickle of plain "
            "lists, dictionaries, numbers, text and numeric arrays"
        ) from error


class _PlainUnpickler(pickle.Unpickler):
    """Resolves the few names by which numpy describes arrays, to inert stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        for modules, stand_ins in _ALLOWED.items():
            if module in modules and name in stand_ins:
                return stand_ins[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")


class _Kind:
    """Describes a numeric type; its state adds the byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biuf":
            raise pickle.UnpicklingError(f"it holds an array of type {code}, which is no number")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Describes an array by shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def finished(self) -> np.ndarray[Any, np.dtype[Any]]:
        _, shape, kind, columns_first, content = self.state
        flat = np.frombuffer(_as_bytes(content), kind.dtype)
        return flat.reshape(shape, order="F" if columns_first else "C")


class _Scalar:
    """Describes a numpy number by type and bytes."""

    def __init__(self, kind: _Kind, content: Any) -> None:
        self.kind, self.content = kind, content

    def finished(self) -> int | float | bool:
        number: int | float | bool = np.frombuffer(_as_bytes(self.content), self.kind.dtype)[
            0
        ].item()
        return number


def _from_buffer(content: Any, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    """Describe an array as pickles of protocol 5 do."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Turn text back into bytes, as pickles of protocol 2 write them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes written as {encoding}; expected latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ALLOWED: dict[tuple[str, ...], dict[str, Any]] = {
    ("numpy.core.multiarray", "numpy._core.multiarray"): {
        "_reconstruct": _Array,
        "scalar": _Scalar,
    },
    ("numpy.core.numeric", "numpy._core.numeric"): {"_frombuffer": _from_buffer},
    ("numpy",): {"ndarray": _Array, "dtype": _Kind},
    ("__builtin__", "builtins"): {"bytes": _no_bytes, "set": set, "frozenset": frozenset},
    ("_codecs",): {"encode": _encode},
}


def _as_bytes(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _finished(found: Any) -> Any:
    """Replace the descriptions of arrays and numbers by what they describe."""
    if isinstance(found, _Array | _Scalar):
        return found.finished()
    if isinstance(found, dict):
        return {_finished(key): _finished(value) for key, value in found.items()}
    if isinstance(found, list | tuple | set | frozenset):
        return type(found)(_finished(item) for item in found)
    if found is None or isinstance(found, bool | int | float | complex | str | bytes):
        return found
    raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, which is not allowed")
