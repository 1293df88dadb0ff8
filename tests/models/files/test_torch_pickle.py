"""Legacy torch files: what is read, and what is refused before it can do harm."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.models.files import torch_pickle
from cl2cm_jax.models.files.torch_pickle import read_torch_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


@pytest.fixture
def fake_torch(monkeypatch):
    """Modules with torch's names, so that pickles can be written as torch writes them."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # type: ignore[attr-defined]

    def _rebuild_tensor_v2(*_):
        raise AssertionError("the reader must not run torch's own function")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return types.SimpleNamespace(storage=torch.FloatStorage, rebuild=_rebuild_tensor_v2)


class _View:
    """A tensor as torch pickles it: a strided view of a storage."""

    def __init__(self, torch, data: np.ndarray, offset: int, shape: tuple, strides: tuple):
        self.torch, self.data, self.layout = torch, data, (offset, shape, strides)

    def __reduce__(self):
        storage = _Stored(self.torch.storage, self.data)
        return self.torch.rebuild, (storage, *self.layout, False, OrderedDict())


class _Stored:
    def __init__(self, kind, data: np.ndarray):
        self.kind, self.data = kind, data


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.kind, "7", "cpu", obj.data.size, None) if isinstance(obj, _Stored) else None


def _write(path: Path, obj: Any, data: np.ndarray | None = None) -> Path:
    with open(path, "wb") as file:
        for part in (_MAGIC, _PROTOCOL, {"little_endian": True}, obj, [] if data is None else ["7"]):
            _Pickler(file, protocol=2).dump(part)
        if data is not None:
            file.write(data.size.to_bytes(8, "little") + data.astype("<f4").tobytes())
    return path


def test_reads_strided_views_of_a_shared_storage(tmp_path, fake_torch):
    data = np.arange(12, dtype=np.float32)
    state = OrderedDict(
        transposed=_View(fake_torch, data, 0, (4, 3), (1, 4)),
        tail=_View(fake_torch, data, 10, (2,), (1,)),
        scalar=_View(fake_torch, data, 5, (), ()),
    )
    arrays = read_torch_pickle(_write(tmp_path / "w.pth", state, data))
    np.testing.assert_array_equal(arrays["transposed"], data.reshape(3, 4).T)
    np.testing.assert_array_equal(arrays["tail"], [10, 11])
    assert arrays["scalar"] == 5 and arrays["transposed"].flags.c_contiguous


class _Evil:
    def __init__(self, call, *args):
        self.reduced = call, args

    def __reduce__(self):
        return self.reduced


def test_many_tensors_of_one_storage_are_refused(tmp_path, fake_torch):
    """Each would become an array of its own: 2.4 MB became 9.6 GB."""
    data = np.arange(12, dtype=np.float32)
    path = tmp_path / "shared.pth"
    for count in (3, 4):
        tensors = OrderedDict((str(i), _View(fake_torch, data, 0, tuple([3, 4]), tuple([4, 1]))) for i in range(count))
        _write(path, tensors, data)
        if count == 3:
            assert len(read_torch_pickle(path)) == 3  # tied weights, and the whole of them
        else:
            with pytest.raises(UserError, match=r"tensor 3 and others take storage 7 more than 3 times"):
                read_torch_pickle(path)


def test_a_negative_size_does_not_make_room_for_others(tmp_path, fake_torch):
    data = np.arange(12, dtype=np.float32)
    tensors = OrderedDict((str(n), _View(fake_torch, data, 0, tuple([n]), tuple([1]))) for n in (-99, 12))
    _write(tmp_path / "it.pth", tensors, data)
    with pytest.raises(UserError, match="outside its storage"):
        read_torch_pickle(tmp_path / "it.pth")


def test_a_pickle_of_empty_containers_is_refused(tmp_path, monkeypatch):
    """Each takes one byte of the file and 64 of memory."""
    monkeypatch.setattr(torch_pickle, "_MAX_OPCODES", 1000)
    (tmp_path / "it.pth").write_bytes(b"\x80\x02" + b"}" * 1001 + b".")
    with pytest.raises(UserError, match="more than 1,000 operations"):
        read_torch_pickle(tmp_path / "it.pth")


@pytest.mark.parametrize("nested", [False, True])
def test_a_malicious_pickle_does_not_run(tmp_path, nested):
    marker = tmp_path / "ran"
    evil = _Evil(os.mkdir, str(marker))
    path = _write(tmp_path / "w.pth", {"weight": evil} if nested else evil)
    with pytest.raises(UserError, match=r"w\.pth.*\.mkdir.*not run"):
        read_torch_pickle(path)
    assert not marker.exists()


@pytest.mark.parametrize("call", [eval, exec, __import__, getattr, np.zeros])
def test_names_outside_the_allow_list_are_refused(tmp_path, call):
    with pytest.raises(UserError, match=call.__name__):
        read_torch_pickle(_write(tmp_path / "w.pth", _Evil(call, "1")))


@pytest.mark.parametrize(
    "state",
    [
        b"}X\x04\x00\x00\x00nameK\x01s",  # {"name": 1}, written to __dict__
        b"N}X\x08\x00\x00\x00__call__K\x01s\x86",  # (None, {"__call__": 1}), written with setattr
    ],
)
def test_a_pickle_cannot_write_to_the_readers_own_code(tmp_path, state):
    with open(tmp_path / "w.pth", "wb") as file:
        for part in (_MAGIC, _PROTOCOL, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        file.write(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b.")  # b: BUILD
    with pytest.raises(UserError, match="AttributeError"):
        read_torch_pickle(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.", "DUP"),
        (b"\x80\x02})\x85" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(60)) + b"K\x01s.", "tuple in two places"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "memoises 2147483647 things and has 2"),
        (b"\x80\x05\x96\xff\xff\xff\xff\x00\x00\x00\x00.", "PROTO|BYTEARRAY8|not enough|expected"),
    ],
)
def test_a_small_pickle_takes_little_time_and_memory(tmp_path, pickled, message):
    """Unpickled as it is, each of these takes hours or gigabytes."""
    (tmp_path / "w.pth").write_bytes(pickled)
    with pytest.raises(UserError, match=message):
        read_torch_pickle(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (13,), (1,)), (3, (10,), (1,)), (-1, (2,), (1,)), (0, (2, 2), (100, 1)), (0, (1000, 1000), (0, 0))],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, fake_torch, offset, shape, strides):
    data = np.arange(12, dtype=np.float32)
    state = {"w": _View(fake_torch, data, offset, shape, strides)}
    with pytest.raises(UserError, match="outside its storage"):
        read_torch_pickle(_write(tmp_path / "w.pth", state, data))


def test_damaged_torch_files_are_user_errors(tmp_path, fake_torch):
    data = np.arange(12, dtype=np.float32)
    whole = _write(tmp_path / "w.pth", {"w": _View(fake_torch, data, 0, (12,), (1,))}, data).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_torch_pickle(tmp_path / "cut.pth")
    (tmp_path / "zip.pth").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(UserError, match="zip format"):
        read_torch_pickle(tmp_path / "zip.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        read_torch_pickle(tmp_path / "none.pth")


def test_a_storage_that_ends_early_is_refused_before_it_is_read(tmp_path, fake_torch):
    data = np.arange(12, dtype=np.float32)
    whole = _write(tmp_path / "w.pth", {"w": _View(fake_torch, data, 0, (12,), (1,))}, data).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="storage 7 has fewer bytes than its 12 elements"):
        read_torch_pickle(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "state",
    [
        b"}(K\x01K\x02u",
        b"}K\x01K\x02s",
        b"(K\x01K\x02d",
        b"ccollections\nOrderedDict\n)R(K\x01K\x02u",
        b"}(X\x01\x00\x00\x00aK\x02K\x01K\x02u",
        b"}(K\x01\x85K\x02u",
        b"ccollections\nOrderedDict\n]]K\x01aK\x02aa\x85R",
    ],
)
def test_keys_that_are_no_text_are_refused(tmp_path, state) -> None:
    """Of 150,000 numbers with one hash (2.4 MB) each is compared with all before it."""
    parts = [pickle.dumps(part, protocol=2) for part in (_MAGIC, _PROTOCOL, {"little_endian": True})]
    (tmp_path / "a.pth").write_bytes(b"".join([*parts, b"\x80\x02", state, b".", pickle.dumps([], protocol=2)]))
    with pytest.raises(UserError, match=r"has a key that is not text|takes 0 positional arguments"):
        read_torch_pickle(tmp_path / "a.pth")
