from __future__ import annotations

import errno
import logging
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import abstract, tree_shardings
from cl2cm_jax.runtime import checkpoint
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.checksums import LIST_NAME, write_checksums

_METADATA = {"config": {"train": {"batch_size": 8}}, "clock": 1.5}


def _state(step, mesh=None):
    params = {"text": {"kernel": jax.random.normal(jax.random.key(step), (8, 16)), "bias": jnp.arange(5.0) + step}}
    state = {"params": params, "opt": optax.adamw(1e-3).init(params), "step": jnp.asarray(step, jnp.int32)}
    return jax.device_put(state, _places(state, mesh))


def _places(state, mesh=None):
    return tree_shardings(state, mesh or make_mesh(devices=jax.devices()[:1]))


def _abstract(mesh=None):
    state = jax.eval_shape(lambda: _state(0))
    return abstract(state, _places(state, mesh))


def _assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


def _save(directory, *steps, keep_last=5, best_metric=None, scores=None):
    with Checkpoints(directory, keep_last=keep_last, best_metric=best_metric) as checkpoints:
        for step in steps:
            metrics = {"SumR": scores[step]} if scores and step in scores else None
            assert checkpoints.save(step, _state(step), metadata={**_METADATA, "position": step}, metrics=metrics)


def test_save_and_restore_round_trip(tmp_path):
    _save(tmp_path / "run" / "checkpoints", 3, 7)
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoints.steps() == [3, 7] and checkpoints.latest_step() == 7
    restored = checkpoints.restore(_abstract())
    assert restored is not None and restored.step == 7
    assert restored.metadata == {**_METADATA, "position": 7}
    _assert_same(restored.state, _state(7))
    older = checkpoints.restore(_abstract(), step=3)
    assert older is not None
    _assert_same(older.state, _state(3))


def test_no_checkpoint_is_none_and_reading_creates_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.restore(_abstract()) is None and checkpoints.restore(_abstract(), step="best") is None
    assert checkpoints.read_metadata() is None and checkpoints.latest_step() is None
    assert not (tmp_path / "none").exists()
    with pytest.raises(UserError, match="step 4 has no checkpoint"):
        checkpoints.restore(_abstract(), step=4)


def test_keeps_what_is_always_kept(tmp_path):
    with Checkpoints(tmp_path, keep_last=1, best_metric="SumR", always=(0, 77)) as checkpoints:
        for step in range(4):
            checkpoints.save(step, _state(step), metadata={}, metrics={"SumR": [1.0, 2.0, 9.0, 3.0][step]})
    assert checkpoints.steps() == [0, 2, 3]


def test_keeps_the_last_and_the_best(tmp_path):
    scores = {0: 1.0, 1: 9.0, 2: 3.0, 3: float("nan"), 4: 2.0}
    _save(tmp_path, *range(6), keep_last=2, best_metric="SumR", scores=scores)
    with Checkpoints(tmp_path, best_metric="selection", older_metric="SumR") as newer:
        older = newer.read_metadata(step="best")
    assert older is not None and older.step == 1
    checkpoints = Checkpoints(tmp_path, best_metric="SumR")
    assert checkpoints.steps() == [1, 4, 5]
    best = checkpoints.read_metadata(step="best")
    assert best is not None and best.step == 1 and best.metrics == {"SumR": 9.0}
    latest = checkpoints.read_metadata()
    assert latest is not None and latest.step == 5 and latest.metrics == {}


@pytest.mark.parametrize("damage", ["flipped", "removed"])
def test_damaged_metrics_of_the_best_are_said_and_it_is_kept(tmp_path, caplog, damage):
    """A flipped digit made another step the best one, without a word, and the next save deleted the best."""
    scores = {1: 9.0, 2: 3.0, 3: 4.0}
    _save(tmp_path, *scores, keep_last=2, best_metric="SumR", scores=scores)
    metadata = tmp_path / "1" / "_CHECKPOINT_METADATA"
    content = metadata.read_bytes()
    assert content.count(b"9.0") == 1
    metadata.write_bytes(content.replace(b"9.0", b"1.0")) if damage == "flipped" else metadata.unlink()
    best = Checkpoints(tmp_path, best_metric="SumR").restore(_abstract(), step="best")
    assert best is not None and best.step == 3
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"the metrics of checkpoint {tmp_path / '1'} are not readable (_CHECKPOINT_METADATA is ")
    _save(tmp_path, 4, keep_last=2, best_metric="SumR", scores={4: 2.0})
    assert Checkpoints(tmp_path, best_metric="SumR").steps() == [1, 3, 4]


def test_best_may_be_the_latest_and_ties_go_to_the_newer(tmp_path):
    _save(tmp_path, 1, 2, keep_last=1, best_metric="SumR", scores={1: 4.0, 2: 4.0})
    checkpoints = Checkpoints(tmp_path, best_metric="SumR")
    assert checkpoints.steps() == [2]
    best = checkpoints.restore(_abstract(), step="best")
    assert best is not None and best.step == 2


def test_an_existing_step_is_not_written_again(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(1, _state(1), metadata={})
        assert not checkpoints.save(1, _state(2), metadata={})
        restored = checkpoints.restore(_abstract())
    assert restored is not None
    _assert_same(restored.state, _state(1))


def test_parameters_alone_can_be_restored(tmp_path):
    _save(tmp_path, 2)
    restored = Checkpoints(tmp_path).restore({"params": _abstract()["params"]})
    assert restored is not None
    _assert_same(restored.state, {"params": _state(2)["params"]})


def test_donation_right_after_saving_is_safe(tmp_path):
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep_last=9) as checkpoints:
        for step in range(1, 4):
            state = _state(step, make_mesh(data=2, fsdp=2, tensor=2))
            checkpoints.save(step, state, metadata={})
            jax.block_until_ready(update(state["params"]))
    for step in range(1, 4):
        restored = Checkpoints(tmp_path).restore(_abstract(), step=step)
        assert restored is not None
        _assert_same(restored.state, _state(step))


def test_eight_devices_to_one_and_back(tmp_path):
    eight = make_mesh(data=2, fsdp=2, tensor=2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, _state(1, eight), metadata={})
        one = checkpoints.restore(_abstract())
        assert one is not None and one.state["params"]["text"]["kernel"].devices() == {jax.devices()[0]}
        _assert_same(one.state, _state(1))
        checkpoints.save(2, one.state, metadata={})
        transposed = make_mesh(data=1, fsdp=4, tensor=2)
        back = checkpoints.restore(_abstract(transposed), step=2)
    assert back is not None
    assert back.state["params"]["text"]["kernel"].addressable_shards[0].data.shape == (2, 8)
    assert back.state["opt"][0].mu["text"]["kernel"].addressable_shards[0].data.shape == (2, 8)
    _assert_same(back.state, _state(1))


def test_other_shapes_are_an_error(tmp_path):
    _save(tmp_path, 1)
    other = {"params": {"text": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)}}}
    with pytest.raises(UserError, match=r"params/text/kernel has shape \(8, 16\) but .* builds \(8, 4\)"):
        Checkpoints(tmp_path).restore(other)
    with pytest.raises(UserError, match="params/vision is missing"):
        Checkpoints(tmp_path).restore({"params": {"vision": jax.ShapeDtypeStruct((8, 4), jnp.float32)}})


def _data_file(step: Path) -> Path:
    return max((path for path in step.rglob("d/*")), key=lambda path: path.stat().st_size)


def _truncate_all(step):
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def _zero_all(step):
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))


def _flip_one_byte(step):
    content = bytearray(_data_file(step).read_bytes())
    content[len(content) // 2] ^= 0xFF
    _data_file(step).write_bytes(content)


def _half(step):
    content = _data_file(step).read_bytes()
    _data_file(step).write_bytes(content[: len(content) // 2])


def _half_without_checksums(step):
    (step / "checksums.json").unlink()
    _half(step)


def _metadata_without_checksums(step):
    (step / "checksums.json").unlink()
    (step / "_CHECKPOINT_METADATA").write_text("{}")


def _empty_folder(step):
    shutil.rmtree(step)
    step.mkdir()


_DAMAGE = {
    "all files truncated": _truncate_all,
    "all files zeroed": _zero_all,
    "metadata removed": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "structure removed": lambda step: (step / "state" / "_METADATA").unlink(),
    "array file removed": lambda step: _data_file(step).unlink(),
    "array file cut in half": _half,
    "one byte flipped": _flip_one_byte,
    "array file cut, no checksums": _half_without_checksums,
    "metadata emptied, no checksums": _metadata_without_checksums,
    "checksums removed": lambda step: (step / "checksums.json").unlink(),
    "empty folder": _empty_folder,
}


@pytest.fixture(name="two_steps", scope="module")
def _two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    _save(directory, 1, 2)
    return directory


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's reading tasks, when it fails
@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(two_steps, tmp_path, caplog, damage):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    _DAMAGE[damage](directory / "2")
    with caplog.at_level(logging.WARNING):
        restored = Checkpoints(directory).restore(_abstract())
    assert restored is not None and restored.step == 1 and restored.metadata["position"] == 1
    _assert_same(restored.state, _state(1))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "\n" not in messages[0]
    assert messages[0].startswith(f"checkpoint {directory / '2'} is not readable (step 2: ")
    assert messages[0].endswith("taking step 1 instead")


def test_a_lone_checkpoint_without_checksums_is_taken_with_a_warning(two_steps, tmp_path, caplog):
    """As a kill between the first checkpoint and its checksums leaves it."""
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    shutil.rmtree(directory / "1")
    (directory / "2" / LIST_NAME).unlink()
    for _ in range(2):
        restored = Checkpoints(directory).restore(_abstract())
        assert restored is not None and restored.step == 2
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [f"{directory / '2'} has no checksums"]


@pytest.mark.parametrize("first", [1, 2])
def test_every_checkpoint_of_an_earlier_version_stays_readable(two_steps, tmp_path, first):
    """None has a list; the first that is read must not make damaged ones of the others."""
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    for step in (1, 2):
        (directory / str(step) / LIST_NAME).unlink()
    saved = Checkpoints(directory)
    for step in (first, 3 - first):
        restored = saved.restore(_abstract(), step=step)
        assert restored is not None and restored.step == step


def test_checksums_that_cannot_be_written_are_a_failed_save(tmp_path, monkeypatch):
    _save(tmp_path, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_checksums", full)
    with pytest.raises(UserError, match=r"checkpoint .*2 was not written \(.*No space left on device\): step 1 is the"):
        _save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("was_killed", [False, True])
def test_saving_continues_after_a_fallback(two_steps, tmp_path, was_killed):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    (directory / "2" / LIST_NAME).unlink() if was_killed else _truncate_all(directory / "2")
    with Checkpoints(directory, keep_last=1) as checkpoints:
        checkpoints.restore(_abstract())
        assert checkpoints.steps() == [1, 2], "reading changes nothing on disk"
        assert checkpoints.save(2, _state(5), metadata={"position": 2})
    assert (directory / "2.unreadable").is_dir() != was_killed, "a checkpoint that was not completed is not kept"
    restored = Checkpoints(directory).restore(_abstract())
    assert restored is not None and restored.step == 2
    _assert_same(restored.state, _state(5))


def test_no_readable_checkpoint_is_an_error(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    _zero_all(directory / "1")
    _flip_one_byte(directory / "2")
    with pytest.raises(UserError) as error:
        Checkpoints(directory).restore(_abstract())
    text = str(error.value)
    assert f"no checkpoint in {directory} is readable" in text and "step 1:" in text and "step 2:" in text
    assert "\n" not in text
    with pytest.raises(UserError, match="no checkpoint in"):
        Checkpoints(directory).read_metadata()


def test_a_damaged_step_requested_by_number_is_an_error(two_steps, tmp_path):
    directory = shutil.copytree(two_steps, tmp_path / "copy")
    _flip_one_byte(directory / "2")
    with pytest.raises(UserError, match=r"step 2: .* is damaged\); request one of \[1\]"):
        Checkpoints(directory).restore(_abstract(), step=2)


class _FullDisk:
    def __init__(self, started):
        started.result()

    def result(self, timeout=None):
        raise ValueError("RESOURCE_EXHAUSTED: writing d/1 [OS error 28: No space left on device]\nsecond line")


def test_a_full_disk_is_one_line_and_the_previous_survives(tmp_path, monkeypatch):
    _save(tmp_path, 1)
    save = checkpoint.ocp.save_async

    def full(path, *arguments, **keywords):
        return _FullDisk(save(f"{path}.orbax-checkpoint-tmp", *arguments, **keywords))

    checkpoints = Checkpoints(tmp_path, keep_last=1)
    monkeypatch.setattr(checkpoint.ocp, "save_async", full)
    assert checkpoints.save(2, _state(2), metadata={})
    with pytest.raises(UserError) as error:
        checkpoints.wait()
    assert "\n" not in str(error.value)
    assert f"checkpoint {tmp_path / '2'} was not written (No space left on device)" in str(error.value)
    assert "step 1 is the newest complete one" in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    monkeypatch.undo()
    assert checkpoints.save(3, _state(3), metadata={})
    checkpoints.close()
    restored = Checkpoints(tmp_path).restore(_abstract())
    assert restored is not None and restored.step == 3


def test_check_does_not_wait_but_reports(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.check()
    future: Future[None] = Future()
    checkpoints._pending = (5, future)
    checkpoints.check()
    future.set_exception(OSError(13, "Permission denied"))
    with pytest.raises(
        UserError, match=r"5 was not written \(\[Errno 13\] Permission denied\): there is no earlier one"
    ):
        checkpoints.check()
    checkpoints.check()


def test_a_directory_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="was not written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, _state(1), metadata={})


def test_a_full_file_system(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("may not mount a small file system here")
    try:
        # incompressible, so that it does not fit twice
        state = {"a": jnp.asarray(np.random.default_rng(0).integers(0, 2**31, 100_000, dtype=np.int32))}
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        checkpoints = Checkpoints(small / "run", keep_last=1)
        checkpoints.save(1, state, metadata={})
        checkpoints.wait()
        with pytest.raises(UserError, match="No space left on device") as error:
            checkpoints.save(2, jax.tree.map(lambda x: x + 1, state), metadata={})
            checkpoints.wait()
        assert "\n" not in str(error.value)
        restored = Checkpoints(small / "run").restore(target)
        assert restored is not None and restored.step == 1
        _assert_same(restored.state, state)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


_KILLED = """
import sys, jax.numpy as jnp, numpy as np
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.checksums import LIST_NAME, write_checksums
with Checkpoints(sys.argv[1], keep_last=2) as checkpoints:
    for step in range(1, 1000):
        values = np.random.default_rng(step).integers(0, 2**31, 1_000_000, dtype=np.int32)
        checkpoints.save(step, {"a": jnp.asarray(values), "step": jnp.asarray(step)}, metadata={"position": step})
        print(step, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 4])
def test_a_kill_during_a_save(tmp_path, steps):
    environment = {**os.environ, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", _KILLED, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for _ in range(steps):
            begun = int(running.stdout.readline())
        running.send_signal(signal.SIGKILL)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = {"a": jax.ShapeDtypeStruct((1_000_000,), jnp.int32, sharding=one)}
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        restored = checkpoints.restore(target)
        # a save begins only when the one before is complete
        assert restored is not None and restored.step >= begun - 1 and restored.metadata == {"position": restored.step}
        expected = np.random.default_rng(restored.step).integers(0, 2**31, 1_000_000, dtype=np.int32)
        np.testing.assert_array_equal(np.asarray(restored.state["a"]), expected)
        assert checkpoints.save(2000, restored.state, metadata={})
    assert all(path.name.isdecimal() for path in tmp_path.iterdir()), "leftovers are removed"


_PROCESS = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import abstract, tree_shardings
from cl2cm_jax.runtime.checkpoint import Checkpoints
from cl2cm_jax.runtime.checksums import LIST_NAME, write_checksums
hosts.start()
values = np.arange(32, dtype=np.float32).reshape(4, 8)
places = tree_shardings({"kernel": values}, make_mesh(fsdp=4))
state = {"kernel": jax.make_array_from_callback((4, 8), places["kernel"], lambda index: values[index])}
with Checkpoints(sys.argv[1], keep_last=1) as checkpoints:
    for step in (1, 2, 3):
        assert checkpoints.save(step, state, metadata={})
    checkpoints.wait()
    hosts.barrier("saved")
    assert checkpoints.steps() == [3]
    if hosts.is_host_zero():
        (Path(sys.argv[1]) / "3" / "_CHECKPOINT_METADATA").unlink()
    hosts.barrier("damaged")
    try:
        checkpoints.restore(abstract(state, places))
    except Exception as error:
        print("refused", type(error).__name__)
    assert checkpoints.save(3, state, metadata={})
    restored = checkpoints.restore(abstract(state, places))
    np.testing.assert_array_equal(hosts.collect(restored.state)["kernel"], values)
    print("restored", restored.step)
"""


@pytest.mark.slow
def test_two_processes_save_set_aside_and_restore_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    command = [sys.executable, "-c", _PROCESS, str(tmp_path / "checkpoints")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": Path(__file__).parents[2]}
    started = [
        subprocess.Popen(command, env={**environment, "JAX_PROCESS_ID": str(process)}, **pipes) for process in range(2)
    ]
    try:
        for running in started:
            out, err = running.communicate(timeout=600)
            assert running.returncode == 0, err
            lines = re.findall("^refused .*|^restored .*", out, re.MULTILINE)  # Gloo prints too, and into our lines
            assert lines == ["refused UserError", "restored 3"]
    finally:
        for running in started:
            running.kill()


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_in_place_of_a_file_is_not_run(tmp_path):
    """Whichever file it is, and with checksums that hold."""
    marker = tmp_path / "ran"
    _save(tmp_path / "whole", 3)
    files = [path for path in (tmp_path / "whole" / "3").rglob("*") if path.is_file() and path.name != LIST_NAME]
    assert len(files) > 3
    for number, file in enumerate(files):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "whole", copy)
        (copy / file.relative_to(tmp_path / "whole")).write_bytes(pickle.dumps(_Payload(marker)))
        (copy / "3" / LIST_NAME).unlink()
        write_checksums(copy / "3")
        try:
            Checkpoints(copy).restore(_abstract())
        except UserError as error:
            assert "\n" not in str(error)
        assert not marker.exists()
