from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cl2cm_jax.errors import UserError
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import put_batch

_PROCESS = """
import numpy as np, jax
from cl2cm_jax.parallel import hosts
from cl2cm_jax.parallel.mesh import make_mesh
from cl2cm_jax.parallel.sharding import put_batch
hosts.start()
hosts.start()
mesh = make_mesh()
rows = put_batch(np.arange(8, dtype=np.int32).reshape(8, 1), mesh)
hosts.barrier("before")
print(mesh.size, rows.shape, hosts.collect(rows)[:, 0].tolist(), hosts.is_host_zero())
"""


def test_one_process_is_host_zero_and_starts_alone(monkeypatch):
    hosts.start()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    hosts.start()
    monkeypatch.delenv("JAX_NUM_PROCESSES")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    hosts.start()
    hosts.barrier("alone")
    assert hosts.is_host_zero()
    rows = np.arange(8)
    np.testing.assert_array_equal(hosts.collect({"a": put_batch(rows, make_mesh())})["a"], rows)


def test_an_incomplete_cluster_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES and JAX_PROCESS_ID missing"):
        hosts.start()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES='two'"):
        hosts.start()


def test_a_process_id_out_of_range_is_an_error(monkeypatch):
    cluster = {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="could not join the other processes"):
        hosts.start()


def ended(program: str, **variables: str) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of two processes that run a program, each with two devices."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        **variables,
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**common, "JAX_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for process in range(2)
    ]
    try:
        outputs = [running.communicate(timeout=120) for running in started]
    finally:
        for running in started:
            running.kill()
    return [(running.returncode, *texts) for running, texts in zip(started, outputs, strict=True)]


@pytest.mark.slow
def test_two_processes_share_one_global_batch():
    for process, (code, out, err) in enumerate(ended(_PROCESS)):
        assert code == 0, err
        assert out.splitlines()[-1] == f"4 (8, 1) {list(range(8))} {process == 0}"


@pytest.mark.slow
def test_two_processes_do_not_connect_through_a_proxy():
    proxy = "http://127.0.0.1:9"  # nothing listens there
    variables = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), proxy) | {"no_proxy": "example.org"}
    for code, out, err in ended(_PROCESS, **variables):
        assert code == 0 and out.splitlines()[-1].startswith("4 (8, 1)"), err


@pytest.mark.parametrize(
    ("variables", "kept"),
    [({}, ""), ({"NO_PROXY": "a"}, "a,"), ({"no_proxy": "b", "NO_PROXY": "a"}, "b,"), ({"no_grpc_proxy": "c"}, "c,")],
)
def test_only_grpc_is_kept_from_the_proxy(monkeypatch, variables, kept):
    monkeypatch.setenv("no_grpc_proxy", "")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax.distributed.initialize", lambda **_: None)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    hosts._initialize(coordinator_address="10.0.0.3:1234")
    expected = f"{kept}localhost,127.0.0.1,::1,10.0.0.3"
    assert os.environ.get("no_proxy") == variables.get("no_proxy") and os.environ["no_grpc_proxy"] == expected


_ALONE = """
from cl2cm_jax.errors import UserError
from cl2cm_jax.parallel import hosts
hosts.start()
hosts.SHUTDOWN_SECONDS = 1.0
with hosts.fail_together():
    hosts.barrier("both are there")
    if not hosts.is_host_zero():
        %s
    hosts.barrier("one comes here")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("raise UserError('a mistake')", 2, "error: a mistake\n"),
        ("raise ZeroDivisionError('a bug')", 1, "ZeroDivisionError: a bug\n"),
    ],
)
def test_a_failing_process_ends_the_others_soon(fault: str, code: int, message: str):
    """Without `fail_together` jax would wait five minutes at the end of the one, and the other for the one."""
    (left_code, _, left_err), (own_code, _, own_err) = ended(_ALONE % fault)
    assert own_code == code and own_err.endswith(message), own_err
    # by the closed connection, or where none was open by the heartbeat
    assert left_code in (hosts.EXIT_LOST, -signal.SIGABRT), left_err
    assert re.search("another process of this run ended|another task died", left_err), left_err


@pytest.mark.slow
def test_sigterm_before_training_ends_a_process():
    """JAX's preemption service would catch the signal and ignore it."""
    program = (
        "import os, signal; from cl2cm_jax.parallel import hosts; hosts.start(); os.kill(os.getpid(), signal.SIGTERM)"
    )
    assert [code for code, _, _ in ended(program)] == [-signal.SIGTERM] * 2
