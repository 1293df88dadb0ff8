"""Legacy torch checkpoints, without torch: five pickles (magic, version, system, object, storage keys), then storages.

A pickle can run any code. It is read with an allow-list of the names that a state dict needs, each mapped to code of
this file; any other name is refused before it is looked up.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cl2cm_jax.errors import UserError, one_line
from cl2cm_jax.text.regular_file import open_regular

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_PICKLE_PROTOCOL = 2
_MEMOISED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_RECALLED = frozenset({"GET", "BINGET", "LONG_BINGET"})
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_MAX_SHARED = 3  # tensors of the size of their storage
_MAX_OPCODES = 500_000  # of a pickle; about 30 for each tensor
_NEVER_WRITTEN = frozenset({"DUP", "POP", "POP_MARK"})
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


def read_torch_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a state dict from a torch file of the legacy format (torch < 1.6), without torch.

    Returns:
      Name -> C-contiguous array, in the layout and with the dtype of the file.

    Raises:
      UserError: the file is missing, truncated, of another format, holds anything but plain tensors, or its pickle
        contains a name that a state dict does not need.
    """
    try:
        with open_regular(path) as file:
            return _read_state_dict(file)
    except UserError as error:
        raise UserError(f"weights file {path}: {error}") from error
    except Exception as error:  # a damaged pickle fails with nearly any exception
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(
            f"weights file {path} is not a readable legacy torch file ({reason}); get a fresh copy"
        ) from error


class _Storage(NamedTuple):
    """A storage named in the pickle; its bytes come later in the file."""

    key: str
    dtype: str
    count: int


class _Tensor(NamedTuple):
    """A strided view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def check(self) -> None:
        """Refuses a view outside its storage, which would read other memory, and one larger than it."""
        size, count = math.prod(self.shape), self.storage.count
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if size and (min(self.shape + self.strides + (self.offset,)) < 0 or last >= count or size > count):
            raise UserError(f"a tensor of shape {self.shape} lies outside its storage; get a fresh copy of the file")

    def read(self, data: np.ndarray) -> np.ndarray:
        strides = tuple(s * data.itemsize for s in self.strides)
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides, writeable=False)
        return np.array(view, order="C")


class _RebuildTensor:
    """Replaces torch's function of that name; without a `__dict__`, so that a pickle cannot write to it."""

    __slots__ = ()

    def __call__(self, storage: object, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
        if not isinstance(storage, _Storage):
            raise UserError("one of its tensors has no storage; get a fresh copy of the file")
        if len(shape) != len(strides) or not all(type(n) is int and abs(n) < 2**63 for n in (offset, *shape, *strides)):
            raise UserError("one of its tensors has a shape that is not of numbers; get a fresh copy of the file")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _ordered_dict() -> OrderedDict[str, Any]:
    """Replaces the class, to which torch gives nothing: its items come later."""
    return OrderedDict()


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    **{("torch", name): dtype for name, dtype in _STORAGE_DTYPES.items()},
}


_InPython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]  # which typeshed takes for that in C


class _AllowListUnpickler(_InPython):
    """Unpickles the names of `_ALLOWED` and refuses every other one; nothing is imported.

    Keys are strings, whose hashes nobody knows in advance: of chosen numbers or tuples with one hash, each is compared
    with all before it. This is the reader in Python, since that in C shows no keys.
    """

    def load_setitem(self) -> None:
        """A key and its value."""
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        """Keys and their values in turn."""
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        """The same, as a dict of their own."""
        _check_keys(self.stack[::2])
        super().load_dict()

    dispatch = _InPython.dispatch | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise UserError(
                f'its pickle asks for "{module_name}.{global_name}", which no state dict needs; it was not run; '
                "use a plain state dict of tensors from a source that you trust"
            ) from None

    def persistent_load(self, pid: Any, /) -> _Storage:
        kind, dtype, key, _, count, *view = pid
        if not isinstance(key, str) or type(count) is not int:
            raise UserError("its pickle holds a storage without a name or a size; get a fresh copy of the file")
        if kind != "storage" or dtype not in _STORAGE_DTYPES.values() or any(view):
            raise UserError("its pickle holds a storage of an unknown kind; save it again as a plain state dict")
        return _Storage(key, dtype, count)


def _check_keys(keys: Sequence[object]) -> None:
    if not all(type(key) is str for key in keys):
        raise UserError("its pickle has a key that is not text; save the model's state dict alone")


def _check_opcodes(file: BinaryIO) -> None:
    """Refuses pickles that use far more memory or time than their size.

    These are later protocols, sparse memos, shared tuples, and empty containers without end.

    Nested tuples that hold the same tuple twice are small, but hashing them as a key takes exponential time.
    """
    start, tuples, is_tuple = file.tell(), set[int](), False
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number > _MAX_OPCODES:
            raise UserError(f"its pickle has more than {_MAX_OPCODES:,} operations; save the model's state dict alone")
        if opcode.proto > _PICKLE_PROTOCOL or opcode.name in _NEVER_WRITTEN:
            raise UserError(f"its pickle has {opcode.name}, which torch did not write then; get a fresh copy of it")
        place = int(argument) if opcode.name in _MEMOISED | _RECALLED else 0  # pyright: ignore[reportArgumentType]
        if opcode.name in _MEMOISED:
            if not 0 <= place <= number:
                raise UserError(f"its pickle memoises {place} things and has {number}; get a fresh copy of it")
            (tuples.add if is_tuple else tuples.discard)(place)
            continue
        if opcode.name in _RECALLED and place in tuples:
            raise UserError("its pickle has one tuple in two places, which torch did not write; get a fresh copy of it")
        is_tuple = opcode.name in _TUPLES
    file.seek(start)


def _read_state_dict(file: BinaryIO) -> dict[str, np.ndarray]:
    if file.read(4) == b"PK\x03\x04":
        raise UserError(
            "it is in torch's newer zip format; save it with torch.save(..., _use_new_zipfile_serialization=False)"
        )
    file.seek(0)

    def load() -> Any:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in texts
            _check_opcodes(file)
            return _AllowListUnpickler(file).load()

    if load() != _MAGIC or load() != _PROTOCOL or load().get("little_endian") is not True:
        raise UserError("it is not a legacy torch file of a little-endian machine; get a fresh copy of it")
    tensors, keys = load(), load()
    if not isinstance(tensors, dict) or not all(isinstance(t, _Tensor) for t in tensors.values()):
        raise UserError("it holds more than a dict of tensors; save the model's state dict alone")

    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if set(keys) != set(storages):
        raise UserError("it names storages that its tensors do not use; get a fresh copy of it")
    _check_views(tensors)
    data = {key: _read_storage(file, storages[key]) for key in keys}
    return {str(name): tensor.read(data[tensor.storage.key]) for name, tensor in tensors.items()}


def _check_views(tensors: Mapping[Any, _Tensor]) -> None:
    """Refuses many tensors of one storage: each becomes an array of its own. Tied weights are two of one."""
    wanted = Counter[str]()
    for name, tensor in tensors.items():
        tensor.check()
        wanted[tensor.storage.key] += math.prod(tensor.shape)
        if wanted[tensor.storage.key] > _MAX_SHARED * tensor.storage.count:
            raise UserError(
                f"tensor {name} and others take storage {tensor.storage.key} more than {_MAX_SHARED} times; "
                "save each tensor with a storage of its own"
            )


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    if count != storage.count:
        raise UserError(
            f"storage {storage.key} has {count} elements instead of {storage.count}; get a fresh copy of it"
        )
    size = count * np.dtype(storage.dtype).itemsize
    if size > os.fstat(file.fileno()).st_size - file.tell():
        raise UserError(f"storage {storage.key} has fewer bytes than its {count:,} elements; get a fresh copy of it")
    raw = file.read(size)
    return np.frombuffer(raw, storage.dtype, count)
