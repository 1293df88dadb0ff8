"""Several processes as one run: start, who writes files, waiting for each other, collecting rows."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cl2cm_jax.errors import UserError

AUTOMATIC = "auto"
# Set by the launcher of a job step: the number of processes that it started.
_LAUNCHER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def start(*, coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of a run; does nothing where there is only one. Call it before any other use of jax.

    Args:
        coordinator: "host:port" of process 0, or "auto" to let jax find the cluster (TPU pods, Kubernetes).
        processes: how many there are.
        process: which one this is, from 0.
        What is None comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. With none of them set,
        a Slurm or Open MPI step of several tasks, or a TPU worker list, is joined by itself.

    Raises:
        UserError: only some of the three are given, or the others do not answer.

    Source: ours.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _number("JAX_NUM_PROCESSES") if processes is None else processes
    process = _number("JAX_PROCESS_ID") if process is None else process
    given = {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": processes, "JAX_PROCESS_ID": process}
    missing = [name for name, value in given.items() if value is None]
    if processes == 1 or jax.distributed.is_initialized():
        return
    if coordinator == AUTOMATIC or (len(missing) == 3 and _launched_together()):
        _initialize()
    elif not missing:
        _initialize(coordinator_address=coordinator, num_processes=processes, process_id=process)
    elif len(missing) < 3:
        raise UserError(f"{' and '.join(missing)} missing: set all of {', '.join(given)}, or none of them.")


def is_host_zero() -> bool:
    """Whether this process writes the logs, tables and pictures."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come to the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def collect(tree: Any) -> Any:
    """Global arrays of a pytree as whole numpy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def _initialize(**arguments: Any) -> None:
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"could not join the other processes ({reason}); start all with the same coordinator."
        ) from error


def _launched_together() -> bool:
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return "," in workers or any((_number(name) or 1) > 1 for name in _LAUNCHER_SIZES)


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UserError(f"{name}={text!r} in the environment is not a whole number; set it to one or unset it.")
    return int(text)
