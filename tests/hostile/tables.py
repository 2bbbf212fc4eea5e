"""Tables with programs in cells, false headers, or a size without bound."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.hostile.case import ACCEPTED, Cases, Job, examples

CASES = Cases()
ROWS = b"a,b\n1,2\n3,4\n"


def table(data: bytes, *features: str, **declared: Any) -> Job:
    return examples({"features": list(features or ("a", "b")), **declared}, table=data)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


@CASES.add(
    "not-a-number",
    of=[
        "=1+1",
        "=cmd|' /C calc'!A0",
        "@SUM(1)",
        "+1+1",
        "1,5",
        "1e",
        "inf",
        "-inf",
        "None",
        "1 000",
        "\u0661",
        "1e999",
    ],
)
def a_cell_that_is_no_number(cell: str) -> Job:
    return table(f'a,b\n1,2\n"{cell}",4\n'.encode())


@CASES.add(ACCEPTED, of=["NaN", "", "NA"])
def a_cell_that_is_missing(cell: str) -> Job:
    """Only a model can say whether it fills it in."""
    return table(f'a,b\n1,2\n"{cell}",4\n'.encode())


@CASES.add("missing-column", of=["c", "__class__", "", "a\0"])
def an_input_of_a_column_that_is_not_there(name: str) -> Job:
    return examples({"inputs": {"x": ["a", name]}}, table=ROWS)


@CASES.add("missing-column", of=["c", "A", " a", "a ", "", "a\0", "../a", "__class__", "a=1=2"])
def a_column_that_is_not_there(name: str) -> Job:
    return table(b"b,a0\n1,2\n3,4\n", "b", name)


@CASES.add("repeated-column", of=["a,a", "a,b,a", ",,", '"a","a"'])
def a_column_that_stands_twice(header: str) -> Job:
    return table(f"{header}\n{','.join('1' * (header.count(',') + 1))}\n".encode(), "a")


@CASES.add(ACCEPTED)
def a_byte_order_mark() -> Job:
    return table(b"\xef\xbb\xbf" + ROWS)


@CASES.add("missing-column", "not-a-table", of=["utf-16", "utf-32", "utf-16-le", "cp037"])
def another_encoding(name: str) -> Job:
    return table(ROWS.decode().encode(name))


@CASES.add(
    "not-a-table",
    "not-a-number",
    "missing-column",
    of=[b"a,b\n\0,2\n", b"a,b\n1,\xff\xfe\n", b"a\0b,c\n1,2\n", b"\0" * 100],
)
def bytes_that_are_no_text(data: bytes) -> Job:
    return table(data)


@CASES.add("not-a-table", of=[b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,b\n1,2\n3\n", b""])
def rows_of_different_lengths(data: bytes) -> Job:
    return table(data)


@CASES.add(
    "not-a-table", "not-a-number", "missing-column", ACCEPTED, of=[b'a,b\n"1,2\n3,4\n', b'a,b\n1,"2', b'"a,b\n1,2\n']
)
def a_quote_that_never_ends(data: bytes) -> Job:
    return table(data)


@CASES.add("no-examples", "not-a-table", of=[b"a,b\n", b"a,b"])
def a_header_alone(data: bytes) -> Job:
    return table(data)


@CASES.add("not-a-table", "not-a-number", "table-too-large")
def a_cell_of_twenty_megabytes() -> Job:
    return table(b'a,b\n1,"' + b"x" * (20 << 20) + b'"\n')


@CASES.add("missing-column", "not-a-table", "table-too-large", heavy=True)
def a_million_columns() -> Job:
    return table(b",".join(b"c%d" % i for i in range(10**6)) + b"\n" + b"1," * (10**6 - 1) + b"1\n", "c0", "x")


@CASES.add("no-examples", "not-a-table", heavy=True)
def ten_million_rows_without_a_cell() -> Job:
    return table(b"a,b\n" + b"\n" * 10**7)


@CASES.add(ACCEPTED, of=["1", "1e308", "-0", "1e-400", "9007199254740993", "true"])
def a_number_at_the_edge(cell: str) -> Job:
    return table(f"a,b\n{cell},2\n{cell},4\n".encode(), "a", "b")


@CASES.add(
    "not-a-table",
    "missing-column",
    "not-a-number",
    of=[
        b"%PDF-1.7\n",
        b"PK\x03\x04" * 30,
        b"SQLite format 3\0" * 9,
        b"\x89PNG\r\n",
        b"<html>",
        b"{}",
        b"\xd0\xcf\x11\xe0" * 20,
    ],
)
def no_table_at_all(data: bytes) -> Job:
    return table(data)


@CASES.add("not-a-table", "missing-column")
def a_packed_table() -> Job:
    return table(gzip.compress(ROWS, mtime=0))


CONDITIONS = [
    "",
    "a",
    "a ==",
    "== 1",
    "a == 1; import os",
    "__import__('os')",
    "a.b.c == 1 and",
    "a in (1)",
    "a == 1 and " * 2000,
    "and",
    "a == 'x",
    "a = 1",
    "(" * 5000,
    "a == 1 -- b",
    "@a == 1",
    "a == b",
    "a > x",
    "not " * 5000 + "a == 1",
    "a in [" + "1, " * 20_000 + "1]",
    "a in []",
    "`a == 1",
    "`` == 1",
    "a is not",
    "a is null is null",
]


@CASES.add("unreadable-condition", "missing-column", of=CONDITIONS)
def a_condition_that_is_none(condition: str) -> Job:
    return table(ROWS, where=condition)


@CASES.add(
    "unreadable-condition",
    "missing-column",
    of=["a" * 50_000, "a.a" * 20_000 + "!", " " * 50_000 + "a", "a == " + "-" * 50_000],
)
def a_condition_that_takes_long(condition: str) -> Job:
    return table(ROWS, where=condition)


@CASES.add("no-examples", of=["a > 100", "a == nan", "a < -1e999"])
def a_condition_that_holds_nowhere(condition: str) -> Job:
    return table(ROWS, where=condition)


@CASES.add("missing-column", of=["c", "c=1", "__class__"])
def a_column_set_that_is_not_there(name: str) -> Job:
    return table(ROWS, set={name: 1})


@CASES.add("not-a-number")
def a_column_set_to_a_text() -> Job:
    return table(ROWS, set={"a": "many"})


COLUMNS: dict[str, Callable[[], Any]] = {
    "lists": lambda: pa.array([[1], [2, 3]]),
    "structs": lambda: pa.array([{"x": 1}, {"x": 2}]),
    "maps": lambda: pa.array([[("k", 1)], [("k", 2)]], pa.map_(pa.string(), pa.int64())),
    "bytes": lambda: pa.array([b"\xff", b"\0"]),
    "texts": lambda: pa.array(["x", "y"]),
    "nothing": lambda: pa.array([None, None]),
    "dates": lambda: pa.array([0, 1], pa.date32()),
    "times": lambda: pa.array([0, 2**53], pa.timestamp("s")),
    "durations": lambda: pa.array([0, 1], pa.duration("us")),
    "decimals": lambda: pa.array([1, 2], pa.decimal128(38, 10)),
    "halves": lambda: pa.array(np.array([1, 2], np.float16)),
    "dictionary": lambda: pa.array(["x", "y"]).dictionary_encode(),
    "numbers": lambda: pa.array(["1", "2"]),
    "large": lambda: pa.array([2**63, 2**64 - 1], pa.uint64()),
    "booleans": lambda: pa.array([True, None]),
    "not-a-number": lambda: pa.array([1.0, float("nan")]),
}


@CASES.add("not-a-number", "not-a-table", ACCEPTED, of=COLUMNS)
def a_column_of(kind: str) -> Job:
    return table(parquet({"a": COLUMNS[kind](), "b": [1, 2]}))


@CASES.add("not-a-number", "not-a-table", "unreadable-condition", "no-examples", ACCEPTED, of=COLUMNS)
def a_condition_on_a_column_of(kind: str) -> Job:
    return table(parquet({"a": COLUMNS[kind](), "b": [1, 2]}), "b", where="a == 1")


@CASES.add("not-a-number", "not-a-table", ACCEPTED, of=COLUMNS)
def a_value_of_a_column_of(kind: str) -> Job:
    return table(parquet({"a": COLUMNS[kind](), "b": [1, 2]}), "b", "a=1")


@CASES.add("not-a-table", of=[0, 4, 8, 50, 99])
def a_parquet_cut_off_at(percent: int) -> Job:
    whole = parquet({"a": [1, 2], "b": [1, 2]})
    return table(b"PAR1" + whole[4 : len(whole) * percent // 100])


@CASES.add("not-a-table", of=[b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0"])
def a_parquet_footer_that_lies(length: bytes) -> Job:
    whole = parquet({"a": [1, 2], "b": [1, 2]})
    return table(whole[:-8] + length + b"PAR1")


@CASES.add("table-too-large", heavy=True)
def a_parquet_that_bursts() -> Job:
    """A billion equal numbers in a few kilobytes."""
    buffer = io.BytesIO()
    group = pa.table({"a": pa.array(np.zeros(10**7, np.int8)), "b": pa.array(np.zeros(10**7, np.int8))})
    with pq.ParquetWriter(buffer, group.schema, compression="zstd") as writer:
        for _ in range(60):
            writer.write_table(group, row_group_size=10**7)
    return table(buffer.getvalue())


@CASES.add(ACCEPTED, "out-of-memory", "out-of-time", heavy=True)
def a_parquet_of_one_long_text() -> Job:
    text = "x" * (64 << 20)
    return table(
        parquet({"a": pa.array([text] * 40).dictionary_encode(), "b": list(range(40))}, compression="zstd"), "b"
    )


@CASES.add(
    "not-a-table",
    "not-a-number",
    "missing-column",
    "table-too-large",
    "repeated-column",
    "no-examples",
    ACCEPTED,
    of=range(20),
)
def a_parquet_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    data = bytearray(parquet({"a": [1, 2, 3], "b": [1.0, 2.0, 3.0]}))
    for position in rng.integers(4, len(data) - 4, 2):
        data[position] ^= 1 << int(rng.integers(8))
    return table(bytes(data))
