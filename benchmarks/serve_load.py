"""Load test of a running search service: failed requests and latency.

python -m benchmarks.serve_load [--url=http://127.0.0.1:8080] [--requests=1000] [--clients=20]

Every client sends one query after another; all queries differ, so that each is encoded. Prints JSON. If the service
needs a token, set CL2CM_TOKEN.
"""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from cl2cm_jax.errors import UserError, exit_cleanly
from cl2cm_jax.runtime.command_line import Arguments

WORDS = (
    "ein roter Apfel",
    "犬",
    "قطة مبتسمة",
    "gato sonriente",
    "красное сердце",
    "a boat at sea",
    "달",
    "un oiseau bleu",
)


def main() -> None:
    """Sends the requests and prints figures; exits with code 2 if a request failed."""
    parser = Arguments(prog="python -m benchmarks.serve_load", description="Load test of a running service.")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=20)
    options = parser.parse_args()
    taken: list[float] = []
    lost: list[str] = []
    numbers, lock, headers = iter(range(options.requests)), threading.Lock(), {}
    if os.environ.get("CL2CM_TOKEN"):
        headers["Authorization"] = f"Bearer {os.environ['CL2CM_TOKEN']}"

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # not through http_proxy

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            query = urllib.parse.urlencode({"q": f"{WORDS[number % len(WORDS)]} {number}"})
            request = urllib.request.Request(f"{options.url}/api/search?{query}", headers=headers)
            start = time.perf_counter()
            try:
                with direct.open(request, timeout=60) as reply:
                    assert json.load(reply)["results"]
            except (OSError, ValueError, AssertionError) as error:
                lost.append(repr(error))
            taken.append(1000 * (time.perf_counter() - start))

    clients = [threading.Thread(target=client) for _ in range(options.clients)]
    start = time.perf_counter()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    seconds = time.perf_counter() - start
    taken.sort()
    figures = {
        "requests": options.requests,
        "clients": options.clients,
        "lost": len(lost),
        "p50_ms": round(taken[len(taken) // 2], 1),
        "p95_ms": round(taken[int(0.95 * len(taken))], 1),
        "requests_per_second": round(options.requests / seconds, 1),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(figures))
    if lost:
        raise UserError(f"{len(lost)} of {options.requests} requests failed, the first with {lost[0]}")


if __name__ == "__main__":
    exit_cleanly(main)
