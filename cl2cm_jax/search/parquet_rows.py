"""Reads the rows of a parquet file of unknown origin: in a process of its own, with limits on memory and time.

A file of a few kilobytes can unpack to gigabytes, whatever its own metadata say, and pyarrow ends the process on some
damaged ones. The limits are those of Linux; on other systems the process is separate, and only its time is limited.

Run as a program (`parquet_rows.py FILE ROWS TEXT_LIMIT`) it prints a JSON list for each row, then {"end": true}; or
{"error": ...}. It imports nothing of this package, which would take a second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

COLUMNS = ("image_path", "caption", "captions", "id", "hash", "size", "mtime", "date")
MAX_GROUPS, MAX_COLUMNS = 1000, 1000
MAX_LINE = 4_000_000  # bytes of a row
MEMORY, MEMORY_PER_BYTE = 250_000_000, 7  # bytes, and for each of the file's
SECONDS, BYTES_PER_SECOND = 2, 10_000_000  # of CPU, and a further one for so many bytes of the file
_AT_ONCE = 512  # rows
log = logging.getLogger(__name__)
_NUMBERS = {"size": "whole bytes", "mtime": "whole nanoseconds", "date": "whole seconds since 1970"}


class BadRowsError(ValueError):
    """A file that is refused; the message follows its name."""


def rows(path: Path, *, count: int, text_limit: int) -> Generator[dict[str, Any]]:
    """The rows of a parquet file, by the names of those `COLUMNS` that it has.

    Args:
      path: the file.
      count: the number of rows that it must have.
      text_limit: bytes of all texts of these columns, with repetitions.

    Raises:
      BadRowsError: it cannot be read within the limits, has another number of rows or no image_path, or more text.
      OSError: it cannot be opened.
    """
    size = path.stat().st_size
    memory, seconds = MEMORY + MEMORY_PER_BYTE * size, SECONDS + size // BYTES_PER_SECOND
    command = [sys.executable, "-P", __file__, str(path), str(count), str(text_limit), str(memory), str(seconds)]
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    deadline = threading.Timer(20.0 * seconds, process.kill)  # if it waits, which takes no CPU
    deadline.daemon = True  # else a command that ends before the last row would wait for it
    deadline.start()
    try:
        yield from _printed(process, path, limits=f"{memory / 1e6:,.0f} MB and {seconds} s")
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def _printed(process: subprocess.Popen[bytes], path: Path, *, limits: str) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    while line := process.stdout.readline(MAX_LINE):
        if not line.endswith(b"\n"):
            raise BadRowsError(f"has a row of more than {MAX_LINE:,} bytes; shorten its captions")
        row = json.loads(line)
        if "error" in row:
            raise BadRowsError(row["error"])
        if "end" in row:
            return
        if "note" in row:
            log.warning("%s %s", path, row["note"])
            continue
        yield row
    raise BadRowsError(f"cannot be read within {limits} (the reader ended); get a fresh copy of it with its vectors")


def read(path: str, *, count: int, text_limit: int) -> Iterator[dict[str, Any]]:
    """As `rows`, in this process."""
    import pyarrow.parquet

    try:
        # Dictionary columns keep a text that many rows share once, so that the size is checked before it is repeated.
        metadata = pyarrow.parquet.read_metadata(path)
        if metadata.num_rows != count:  # before reading: a few bytes can encode any number of rows
            raise BadRowsError(f"has {metadata.num_rows} rows for {count} vectors; write both again")
        if metadata.num_row_groups > MAX_GROUPS or metadata.num_columns > MAX_COLUMNS:
            raise BadRowsError(
                f"has {metadata.num_row_groups:,} row groups and {metadata.num_columns:,} columns, over the limit of "
                f"{MAX_GROUPS:,} and {MAX_COLUMNS:,}; write it anew"
            )
        leaves = list(metadata.schema)
        columns = [leaf.path for leaf in leaves]  # nested ones, such as in a list, are ignored
        texts = [leaf.path for leaf in leaves if leaf.path in COLUMNS and leaf.physical_type == "BYTE_ARRAY"]
        if "image_path" not in columns:
            raise BadRowsError(f"has no column image_path; it has {', '.join(columns)[:500]}")
        _check_size(_stored_size(metadata), text_limit)
        wanted = [name for name in COLUMNS if name in columns]
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts, pre_buffer=False) as file:
            if note := _unread(file.schema_arrow):
                yield {"note": note}
            table = file.read(wanted, use_threads=False)
        _check_size(_text_size(table), text_limit)
        for batch in table.to_batches(max_chunksize=_AT_ONCE):
            yield from batch.to_pylist()
    except BadRowsError:
        raise
    except MemoryError as error:
        raise BadRowsError("needs more memory than its size allows; write smaller shards") from error
    except Exception as error:  # Arrow passes errors of C++ on as RuntimeError, IndexError and others
        raise BadRowsError(
            f"cannot be read ({type(error).__name__}); get a fresh copy of it with its vectors"
        ) from error


def _unread(schema: Any) -> str:
    """A note of the columns whose values are of another type than is read; "" if there is none."""
    import pyarrow

    kinds = pyarrow.types
    found = []
    for name, wanted in {name: _NUMBERS.get(name, "text") for name in COLUMNS if name in schema.names}.items():
        kind = schema.field(name).type
        kind = kind.value_type if kinds.is_dictionary(kind) else kind
        is_text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
        if not (kinds.is_null(kind) or (is_text if wanted == "text" else kinds.is_integer(kind))):
            found.append(f"the column {name} of {str(kind)[:60]}, which must be {wanted}")
    return f"is read without {', '.join(found)}" if found else ""


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BadRowsError(f"unpacks to {size:,} bytes, over the limit of {limit:,}; write smaller shards")


def _stored_size(metadata: Any) -> int:
    """Uncompressed bytes of the columns that are read, by the file's own metadata."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] in COLUMNS)


def _text_size(table: Any) -> int:
    """Bytes of all texts of a table of dictionary columns, with repetitions."""
    import pyarrow
    import pyarrow.compute

    compute: Any = pyarrow.compute  # its functions are created at import
    size = 0
    for column in table.columns:
        if pyarrow.types.is_dictionary(column.type):
            for chunk in column.chunks:
                lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
                size += compute.sum(lengths.cast(pyarrow.int64())).as_py() or 0
    return size


def _limit(memory: int, seconds: int) -> None:
    """Limits this process to so many bytes and so many seconds of CPU more than it has now."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        memory += pages * resource.getpagesize()
        seconds += math.ceil(time.process_time())
        for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(kind)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (value, hard))


def _main(path: str, count: str, text_limit: str, memory: str, seconds: str) -> None:
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401  # before the limits

    pyarrow.set_cpu_count(1)
    _limit(int(memory), int(seconds))
    sys.stdout.reconfigure(encoding="utf-8")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        for row in read(path, count=int(count), text_limit=int(text_limit)):
            print(json.dumps(row, ensure_ascii=False, default=lambda _: None))
        print(json.dumps({"end": True}))
    except BadRowsError as error:
        print(json.dumps({"error": str(error)}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
