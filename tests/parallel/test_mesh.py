from __future__ import annotations

import jax
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.parallel.mesh import AXES, batch_shards, check_batch_size, make_mesh


def test_one_axis_takes_the_remaining_devices():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(data=2, fsdp=-1).shape) == {"data": 2, "fsdp": 4, "tensor": 1}


def test_a_subset_of_the_devices():
    mesh = make_mesh(devices=jax.devices()[:1])
    assert mesh.axis_names == AXES and mesh.size == 1


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"data": 3}, "config.mesh.data=3 x config.mesh.fsdp=1 x config.mesh.tensor=1 needs 3 devices but there are 8"),
        ({"fsdp": 3}, "3 does not divide the 8 devices"),
        ({"fsdp": 16}, "16 does not divide the 8 devices"),
        ({"data": -1, "tensor": -1}, "only one axis can take the rest"),
        ({"tensor": 0}, "config.mesh.tensor=0 is not a number of devices"),
        ({"data": -2}, "config.mesh.data=-2 is not a number of devices"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes, said):
    with pytest.raises(UserError) as error:
        make_mesh(**sizes)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_batch_size_must_split_evenly():
    mesh = make_mesh(fsdp=2)
    assert batch_shards(mesh) == 8
    check_batch_size(96, mesh)
    with pytest.raises(UserError) as error:
        check_batch_size(100, mesh)
    assert str(error.value) == (
        'config.train.batch_size=100 is not divisible by the 8 devices of mesh axes "data" x "fsdp"; use 96 or 104.'
    )
    with pytest.raises(UserError, match="config.train.batch_size=3 .* use 8"):
        check_batch_size(3, mesh)
    with pytest.raises(UserError, match="use 8"):
        check_batch_size(0, mesh)


def test_tensor_devices_do_not_split_the_batch():
    check_batch_size(2, make_mesh(data=2, tensor=4))
