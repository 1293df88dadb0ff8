"""Runs of several processes: start, barriers, gathering arrays, votes, and a clean end when one fails."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cl2cm_jax.errors import EXIT_USER_ERROR, UserError, one_line, print_user_error
from cl2cm_jax.interrupts import EXIT_INTERRUPTED

HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as lost
EXIT_LOST = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed again
SHUTDOWN_SECONDS = 5.0  # that a process with an error waits for the others, which may have it too
_MESSAGE_BYTES = 4096  # of a message to all processes
# how the runtime reports that another process has ended
_LOST = re.compile(
    r"gloo|connection (reset|closed|refused)|heartbeat|coordination|peer|broken pipe|socket", re.IGNORECASE
)
# number of processes, set by the launcher of a job step
_LAUNCHER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def start() -> None:
    """Joins the processes of a run; does nothing if there is only one. Call it before any other use of jax.

    Reads JAX_COORDINATOR_ADDRESS ("host:port" of process 0, or "auto" to let jax find the cluster: TPU pods,
    Kubernetes), JAX_NUM_PROCESSES and JAX_PROCESS_ID (from 0). With none of them set, a Slurm or Open MPI step of
    several tasks, or a TPU worker list, is detected.

    Raises:
        UserError: only some of the three are set, or the others do not answer.
    """
    coordinator = os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes, process = _number("JAX_NUM_PROCESSES"), _number("JAX_PROCESS_ID")
    given = {"JAX_COORDINATOR_ADDRESS": coordinator, "JAX_NUM_PROCESSES": processes, "JAX_PROCESS_ID": process}
    missing = [name for name, value in given.items() if value is None]
    if processes == 1 or jax.distributed.is_initialized():
        return
    if coordinator == "auto" or (len(missing) == 3 and _launched_together()):
        _initialize()
    elif not missing:
        _initialize(coordinator_address=coordinator, num_processes=processes, process_id=process)
    elif len(missing) < 3:
        raise UserError(
            f"{' and '.join(missing)} missing: set all of {', '.join(given)}, or none of them.", id="joining-processes"
        )


def is_host_zero() -> bool:
    """Whether this process writes the logs, tables and pictures."""
    return jax.process_index() == 0


def own_name(name: str) -> str:
    """The name of a file that every process writes: "stalls.txt", "stalls-1.txt"."""
    stem, dot, ending = name.rpartition(".")
    return name if is_host_zero() else f"{stem}-{jax.process_index()}{dot}{ending}"


def barrier(name: str) -> None:
    """Waits until every process has reached the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def collect(tree: Any) -> Any:
    """Global arrays of a pytree as whole numpy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def on_host_zero(action: Callable[[], Any]) -> None:
    """Runs `action` on process 0 while the others wait; a UserError of it is raised on all processes."""
    if jax.process_count() == 1:
        action()
        return
    message = ""
    if is_host_zero():
        try:
            action()
        except UserError as error:
            message = str(error)
    if message := from_host_zero(message):
        raise UserError(message)


def from_host_zero(text: str) -> str:
    """Broadcasts the text of process 0."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(padded), np.uint8)
    return received.tobytes().rstrip(b"\0").decode(errors="ignore")


class Vote:
    """Whether any process votes yes, with the same answer on all and without waiting for each other.

    The answer is that of the previous call, since the devices reduce the votes after their queued work; with one
    process it is the vote.
    """

    def __init__(self) -> None:
        self._before: jax.Array | None = None
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._split = NamedSharding(mesh, PartitionSpec("all"))
            self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, wanted: bool) -> bool:
        """Votes; every process must call it equally often."""
        if jax.process_count() == 1:
            return wanted
        before = self._before is not None and bool(self._before)
        own = np.full(jax.local_device_count(), wanted)
        self._before = self._any(jax.make_array_from_process_local_data(self._split, own))
        return before

    def now(self, wanted: bool) -> bool:
        """Whether any process votes yes now or did at the previous call; waits for all."""
        before = self(wanted)
        return self(wanted) or before


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Ends this process at once when a run of several processes fails, so that none waits long for another.

    A process that lost another one prints one line and exits with `EXIT_LOST`. One with an error of its own prints
    that, and the others lose it. With one process, errors are raised as usual.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, Exception) and not isinstance(error, UserError) and _LOST.search(str(error)):
            lost = f"another process of this run ended ({one_line(error, limit=160)}); see its log; start all again"
            print(f"error: {lost}, they resume from the newest checkpoint", file=sys.stderr, flush=True)
            os._exit(EXIT_LOST)  # the runtime would wait for minutes
        if print_user_error(error):
            _exit(EXIT_USER_ERROR)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted", file=sys.stderr, flush=True)
            _exit(EXIT_INTERRUPTED)
        traceback.print_exception(error)
        _exit(1)


def _exit(code: int) -> NoReturn:
    """Ends this process when all others end too, or after `SHUTDOWN_SECONDS`.

    At exit jax would wait five minutes for the others, while they wait in a collective for this process.
    """
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(SHUTDOWN_SECONDS)
    sys.stdout.flush()
    os._exit(code)


def _initialize(**arguments: Any) -> None:
    _connect_directly(str(arguments.get("coordinator_address", "")).rpartition(":")[0])
    # jax's own service would catch SIGTERM and ignore it until `runtime.preemption` takes over
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"could not join the other processes ({one_line(error)}); give all one coordinator", id="joining-processes"
        ) from error


def _connect_directly(host: str) -> None:
    """Keeps gRPC from the proxy of the environment (http_proxy) for this machine and for `host`."""
    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
    given = next((value for name in names if (value := os.environ.get(name))), "")
    os.environ["no_grpc_proxy"] = ",".join(filter(None, [given, "localhost", "127.0.0.1", "::1", host.strip("[]")]))


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
