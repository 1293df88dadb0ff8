"""Pictures of unknown origin are decoded in processes that can be ended."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cl2cm_jax.data.media.images import ImageError, decode
from cl2cm_jax.search.entry import id_of
from cl2cm_jax.serve import picture_worker, pictures, service, workers
from cl2cm_jax.serve.limits import Limits
from cl2cm_jax.serve.workers import BusyError, Workers

from .conftest import LOOPBACK, application, serving


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


PICTURE = encoded(Image.effect_noise((70, 50), 60).convert("RGB"))


def process(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_pixels_and_the_errors_are_those_of_decode(tmp_path: Path) -> None:
    pool = Workers(1)
    np.testing.assert_array_equal(pool.pixels(PICTURE), decode(PICTURE))
    for content, message in ((PICTURE[:100], "truncated or damaged"), (b"text", "known format"), (b"", "is empty")):
        with pytest.raises(ImageError, match=message):
            pool.pixels(content)
    with pytest.raises(ImageError, match="70 x 50 pixels, over the limit of 10"):
        pool.pixels(PICTURE, max_pixels=10)
    large = encoded(Image.effect_noise((1600, 1200), 60).convert("RGB"), "JPEG")
    assert pool.pixels(large, enough=200).shape == (300, 400, 3)
    (tmp_path / "ü.jpg").write_bytes(large)
    with Image.open(io.BytesIO(pool.webp(tmp_path / "ü.jpg", size=480))) as image:
        assert (image.format, image.size) == ("WEBP", (480, 360))
    with pytest.raises(ImageError, match=r"no\.jpg does not exist"):
        pool.webp(tmp_path / "no.jpg", size=480)
    pool.close()


def test_one_process_decodes_many_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = [], workers._started
    monkeypatch.setattr(workers, "_started", lambda: started.append(start()) or started[-1])
    pool = Workers(1)
    for content in (PICTURE, b"no picture", PICTURE):
        try:
            pool.pixels(content)
        except ImageError:
            assert content != PICTURE
    assert len(started) == 1 and started[0].poll() is None
    pool.close()
    assert started[0].poll() is not None


@pytest.mark.parametrize("code", [
    "import time; time.sleep(60)", "pass", "print('no reply', flush=True); import time; time.sleep(60)",
    "import os, signal; input(); os.kill(os.getpid(), signal.SIGKILL)",
    "print('{\"bytes\": 9, \"shape\": [1, 1, 3]}\\nabc', end='', flush=True)",
])  # fmt: skip
def test_a_process_that_takes_too_long_or_dies_is_ended_and_replaced(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, start = process(code), workers._started
    given = iter([bad])
    monkeypatch.setattr(workers, "_started", lambda: next(given, None) or start())
    pool = Workers(1, seconds=2)
    with pytest.raises(ImageError, match="the image takes more than 3 s of computing, 2 s in all, or too"):
        pool.pixels(PICTURE)
    assert bad.poll() is not None
    monkeypatch.setattr(pool, "_seconds", 60)
    np.testing.assert_array_equal(pool.pixels(PICTURE), decode(PICTURE))
    pool.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_the_signals_of_the_terminal_and_the_death_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = workers._started()
    assert os.getsid(worker.pid) == worker.pid, "Ctrl-C in the terminal would end it before the service has answered"
    worker.communicate()  # the end of its input, as when the service is killed
    assert worker.returncode == 0
    hostile = process(
        "from cl2cm_jax.serve import picture_worker as w; import time\n"
        "w.SECONDS, w.answer = 0.05, lambda *a, **k: time.sleep(600)\n"
        "w.main()"
    )
    hostile.communicate(b'{"bytes": 0}\n')
    assert hostile.returncode == -signal.SIGALRM


def test_too_many_at_once_are_told() -> None:
    with pytest.raises(BusyError, match="too many pictures at once; try again later"):
        Workers(0, patience=0).pixels(PICTURE)


def test_no_work_goes_on_after_the_time_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = process("import time; time.sleep(60)")
    monkeypatch.setattr(workers, "_started", lambda: stuck)
    pool = Workers(1, seconds=60)
    with pytest.raises(ImageError, match="the image takes more than"):
        pool.pixels(PICTURE, until=time.monotonic() + 0.1)
    assert stuck.poll() is not None
    with pytest.raises(BusyError):
        Workers(0, patience=60).pixels(PICTURE, until=time.monotonic())


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is the system's")
def test_its_computing_is_limited() -> None:
    """On a busy machine a picture has the same work, not the same time."""
    code = "from cl2cm_jax.serve.picture_worker import _end_after as end\n"
    code += "for limit in (5, 0, 0.05): end(computing=limit, seconds=0)\nwhile True: pass"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGPROF


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is the system's")
def test_its_memory_is_limited_and_it_loads_no_network() -> None:
    code = (
        "import sys; from cl2cm_jax.serve import picture_worker as w; w._limit()\n"
        "assert not {'jax', 'tensorflow', 'flax'} & set(sys.modules)\n"
        "try: bytearray(w.MEMORY)\n"
        "except MemoryError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
    assert picture_worker.MEMORY <= 1_000_000_000


def test_a_request_that_finds_no_process_free_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Workers", lambda: Workers(0, patience=0))
    monkeypatch.setattr(pictures, "Workers", lambda: Workers(0, patience=0))
    with serving(application(tmp_path / "photos", Limits(hosts=LOOPBACK))) as server:
        for reply in (
            server.ask("/api/search/picture", method="POST", body=PICTURE),
            server.ask(f"/api/pictures/{id_of('red.png')}/thumbnail"),
        ):
            assert reply.status == 503 and reply.headers["retry-after"] == "5"
            assert reply.json() == {"detail": "too many pictures at once; try again later"}
        assert server.ask("/api/search?q=rot").status == 200
