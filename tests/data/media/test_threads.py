"""Threads that decode pictures are bounded in number and in memory."""

from __future__ import annotations

import threading

from cl2cm_jax.data.media.threads import THREADS, Room, ahead


def test_pictures_are_decoded_at_once_while_there_is_memory() -> None:
    room, inside, most = Room(100), [], []

    def take(needed: int) -> None:
        with room.taken(needed):
            inside.append(min(needed, 100))
            most.append(sum(inside))
            threading.Event().wait(0.01)
            inside.remove(min(needed, 100))

    threads = [threading.Thread(target=take, args=(needed,)) for needed in (40, 40, 40, 500, 60, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 6 and max(most) <= 100 and not inside


def test_items_are_read_only_a_few_ahead() -> None:
    read = []
    found = ahead(lambda item: item + 1, (read.append(item) or item for item in range(1000)))
    assert [next(found) for _ in range(3)] == [1, 2, 3]
    assert len(read) <= 2 * THREADS + 4
    assert list(found) == list(range(4, 1001))
