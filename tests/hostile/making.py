"""Files as attackers write them. Each is made when it is asked for, in a moment, and none is stored."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MIB = 1 << 20
GOOD = '{"instruction": "Q?", "output": "A."}\n'
TURN = '{"messages": [{"role": "user", "content": "Q"}, {"role": %s, "content": %s}]}\n'

ENDLESS_COMPARISON = (
    "{% set x = namespace(a=[1], b=[1]) %}{% for i in range(40) %}{% set x.a = [x.a, x.a] %}{% set x.b = [x.b, x.b] %}"
    "{% endfor %}{{ x.a == x.b }}"
)
"""A template that makes one call of the interpreter's own, which takes 2^40 steps and hears no signal."""


def second(value: str) -> str:
    """A file whose second row answers with this piece of JSON."""
    return GOOD + '{"instruction": "Q?", "output": ' + value + "}\n" + GOOD


def talk(role: str = "assistant", content: str = "A") -> str:
    """A good conversation, and one whose last turn is this."""
    return TURN % ('"assistant"', '"A"') + TURN % (json.dumps(role), json.dumps(content))


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def small_parquet() -> bytes:
    plain: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    return parquet(pa.table({"text": ["a"] * 100}), **plain)


def gzip_bomb() -> bytes:
    """1 MiB that unpacks to 1 GiB of rows: one flushed block, over and over."""
    row = b'{"text": "%s"}\n' % (b"a" * (MIB - 13))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    first, again = (packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * 1023 + packer.flush()


def parquet_bomb(characters: int) -> bytes:
    """Some kilobytes whose footer claims no more, and which decode to 10 GB: every row is the one text of a dictionary."""
    rows = 10_000_000_000 // characters
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * characters]))
    plain: dict[str, Any] = {"write_statistics": False, "dictionary_pagesize_limit": 8 * MIB}
    return parquet(pa.table({"text": column}), compression="zstd", **plain)


def forged_parquet() -> bytes:
    """Its page claims two thousand million values and holds a hundred."""
    return small_parquet().replace(bytes([0xC8, 0x01]), b"\xfe\xff\xff\xff\x0f", 1)


def garbled_schema() -> bytes:
    """Parquet that carries an Arrow schema, as Arrow writes it, which is no schema."""
    whole = parquet(pa.table({"text": ["a", "b"]}))
    found = re.search(rb"ARROW:schema[^/]*(/[\w+/=]{60,})", whole, re.ASCII)
    assert found
    return whole[: found.start(1)] + b"/" * len(found[1]) + whole[found.end(1) :]


def bad_arrow(*, stream: bool = False) -> bytes:
    """Arrow data whose texts lie outside of their buffer."""
    sink, batch = io.BytesIO(), pa.record_batch([pa.array(["abcd", "efgh"])], names=["text"])
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().replace(struct.pack("<3i", 0, 4, 8), struct.pack("<3i", 0, 1 << 30, (1 << 31) - 1))


def zipped(*entries: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
        for name, target in links:
            link = zipfile.ZipInfo(name)
            link.external_attr = 0o120777 << 16
            archive.writestr(link, target)
    return sink.getvalue()


def crowded_zip() -> bytes:
    """100,000 entries by its own account."""
    small = zipped(("a", b""))
    end = small.rindex(b"PK\x05\x06")
    return small[:end] + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, end, 0, 0) + bytes(4 * MIB)


def nested_zip(depth: int = 6) -> bytes:
    content = zipped(("zeros", bytes(MIB)))
    for level in range(depth):
        content = zipped(*((f"{level}-{copy}.zip", content) for copy in range(4)))
    return content


def tar_device() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        device = tarfile.TarInfo("console")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 5, 1
        archive.addfile(device)
    return sink.getvalue()


def packed(content: bytes | str, times: int = 1) -> bytes:
    made = content.encode() if isinstance(content, str) else content
    for _ in range(times):
        made = gzip.compress(made, mtime=0)
    return made


def endless_line(size: int) -> Iterator[bytes]:
    """One line of so many bytes, a megabyte at a time."""
    yield b'{"text": "'
    for _ in range(size // MIB):
        yield b"x" * MIB
