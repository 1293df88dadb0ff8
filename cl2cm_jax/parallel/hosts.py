"""Several processes as one run: start, who writes files, waiting for each other, collecting rows, agreeing."""

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

from cl2cm_jax.errors import EXIT_USER_ERROR, UserError, told

AUTOMATIC = "auto"
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
EXIT_LOST = 75  # EX_TEMPFAIL of sysexits.h: unlike after a mistake, the same command may go well again
EXIT_INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
PARTING = 5.0  # seconds that a process with an error waits for the others to have it too
_LONGEST = 4096  # bytes of a message to all processes
# what the runtime says where a process that it talks to has ended
_LOST = re.compile(
    r"gloo|connection (reset|closed|refused)|heartbeat|coordination|peer|broken pipe|socket", re.IGNORECASE
)
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


def own_name(name: str) -> str:
    """The name of a file that every process has for itself: "stalls.txt", "stalls-1.txt"."""
    stem, dot, ending = name.rpartition(".")
    return name if is_host_zero() else f"{stem}-{jax.process_index()}{dot}{ending}"


def barrier(name: str) -> None:
    """Waits until every process has come to the barrier of this name."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def collect(tree: Any) -> Any:
    """Global arrays of a pytree as whole numpy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def on_host_zero(act: Callable[[], Any]) -> None:
    """Runs `act` on process 0 while the others wait for it.

    Raises:
        UserError: `act` raised it; on all processes, so that all of them end with its message.
    """
    if jax.process_count() == 1:
        act()
        return
    message = ""
    if is_host_zero():
        try:
            act()
        except UserError as error:
            message = str(error)
    if message := from_host_zero(message):
        raise UserError(message)


def from_host_zero(text: str) -> str:
    """What process 0 says, on every process."""
    if jax.process_count() == 1:
        return text
    letter = np.zeros(_LONGEST, np.uint8)
    spelt = np.frombuffer(text.encode()[:_LONGEST], np.uint8)
    letter[: len(spelt)] = spelt
    told = np.asarray(multihost_utils.broadcast_one_to_all(letter), np.uint8)
    return told.tobytes().rstrip(b"\0").decode(errors="ignore")


class Vote:
    """Whether one of the processes wants something, known to all at the same call, without waiting for each other.

    The answer is that to the call before, for the devices add up the votes behind the work that they have; with one
    process it is the vote.
    """

    def __init__(self) -> None:
        self._before: jax.Array | None = None
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("all",))
            self._split = NamedSharding(mesh, PartitionSpec("all"))
            self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, wanted: bool) -> bool:
        """Casts this process's vote and returns what all agree on; every process must call it equally often."""
        if jax.process_count() == 1:
            return wanted
        before = self._before is not None and bool(self._before)
        own = np.full(jax.local_device_count(), wanted)
        self._before = self._any(jax.make_array_from_process_local_data(self._split, own))
        return before


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process at once where a run of several cannot go on: none waits long for one that has ended.

    A process that lost another one says so in one line, code `EXIT_LOST`. One with an error of its own says that, with
    the code that it has alone, and the others lose it. What is raised where there is one process passes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, Exception) and not isinstance(error, UserError) and _LOST.search(str(error)):
            reason = (str(error).splitlines() or [""])[0][:160]
            print(
                f"error: another process of this run ended ({reason}); see its log, then start all of them again: they "
                "go on from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
            os._exit(EXIT_LOST)  # the runtime would wait for the lost one for minutes
        _part(_told_code(error))


def _told_code(error: BaseException) -> int:
    """Says what ends this process, and how a shell would know it."""
    if told(error):
        return EXIT_USER_ERROR
    traceback.print_exception(error)
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _part(code: int) -> NoReturn:
    """Ends this process when all others end too, or after `PARTING` seconds.

    At its exit jax waits five minutes for all of them, while they wait in a collective for this one, which still lives.
    """
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(PARTING)
    sys.stdout.flush()
    os._exit(code)


def _initialize(**arguments: Any) -> None:
    # jax's own service would catch SIGTERM, and nothing would come of it before `runtime.preemption` takes over
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT)
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
