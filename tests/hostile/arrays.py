"""Arrays that contain programs, have false headers, or are without bound."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

from tests.hostile.case import ACCEPTED, Cases, Job, examples
from tests.hostile.pictures import zipped

CASES = Cases()
PROGRAM = b"cos\nsystem\n(S'touch /tmp/caveat-was-here'\ntR."


def arrays(data: bytes, **declared: Any) -> Job:
    return examples(declared, arrays=data)


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**named: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def header(text: str, data: bytes = bytes(64), version: tuple[int, int] = (1, 0)) -> bytes:
    """An `.npy` with a handwritten header."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes(version) + size + text.encode("latin1") + b"\n" + data


def described(descr: str = "'<f4'", order: str = "False", shape: str = "(4, 4)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@CASES.add("not-an-array", of=[PROGRAM, pickle.dumps({"a": 1}), pickle.dumps(np.ones((3, 3))), b"\x80\x05."])
def a_pickle(data: bytes) -> Job:
    return arrays(data)


@CASES.add("not-an-array", "not-numbers", of=["npy", "npz"])
def an_array_of_objects(kind: str) -> Job:
    things = np.array([[{"a": 1}, [2]], [None, "x"]], dtype=object)
    return arrays(npy(things, allow_pickle=True) if kind == "npy" else npz(a=things))


@CASES.add("not-numbers")
def a_program_in_an_npz() -> Job:
    return arrays(zipped({"a.npy": PROGRAM}))


@CASES.add("not-an-array", "not-numbers")
def a_program_behind_a_header() -> Job:
    return arrays(header(described("'|O'"), PROGRAM))


@CASES.add("not-numbers", "not-an-array", of=["<U8", "S8", "M8[s]", "m8[s]", "c16", "V16", "|O"])
def an_array_of_another_type(kind: str) -> Job:
    return arrays(header(described(f"'{kind}'"), bytes(16 * 64)))


@CASES.add("not-numbers", "not-an-array")
def an_array_of_records() -> Job:
    return arrays(header(described("[('a', '<f4'), ('b', '|O')]"), bytes(1024)))


@CASES.add(
    "not-an-array",
    "wrong-shape",
    "not-numbers",
    of=[
        "",
        "{",
        "None",
        "[]",
        "{'descr': '<f4'}",
        "__import__('os').system('true')",
        "(" * 9000,
        "{'a':" * 5000,
        described(shape="4"),
        described(shape="(4.0, 4)"),
        described(shape="(-4, -4)"),
        described(shape="(True, 16)"),
        described(shape="(2**9, 2)"),
        described("'<f0'"),
        described("'<f99'"),
        described("'<'"),
        described("None"),
        described(order="'yes'"),
        described(shape="(4, 4), 'more': 1"),
    ],
)
def a_header_that_is_none(text: str) -> Job:
    return arrays(header(text))


@CASES.add(
    "not-an-array",
    "no-examples",
    of=["(2**62,)", "(4611686018427387904, 4611686018427387904)", "(1099511627776, 4)", "(0, 1099511627776)"],
)
def a_shape_without_end(shape: str) -> Job:
    return arrays(header(described(shape=shape)))


@CASES.add("not-an-array", "wrong-shape")
def five_thousand_dimensions() -> Job:
    return arrays(header(described(shape=f"({'1,' * 5000})"), version=(2, 0)))


@CASES.add("not-an-array", of=[(0, 0), (9, 9), (255, 255), (4, 0)])
def a_version_of_the_future(major: int, minor: int) -> Job:
    return arrays(header(described(), version=(major, minor)))


@CASES.add("not-an-array")
def a_header_of_four_gigabytes() -> Job:
    return arrays(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{" * 1000)


@CASES.add("not-an-array", of=[0, 1, 8, 60, 100, 150])
def an_array_cut_off_at(size: int) -> Job:
    return arrays(npy(np.ones((8, 8), np.float32))[:size])


@CASES.add("wrong-shape", of=[(), (0,), (5,)])
def too_few_dimensions(*shape: int) -> Job:
    return arrays(npy(np.ones(shape)))


@CASES.add("no-examples", of=[((0, 4),), ((4, 0),), ((0, 0),)])
def an_array_of_nothing(shape: tuple[int, ...]) -> Job:
    return arrays(npy(np.ones(shape)))


@CASES.add(ACCEPTED)
def columns_first() -> Job:
    return arrays(npy(np.asfortranarray(np.arange(12.0).reshape(3, 4))))


@CASES.add(ACCEPTED)
def the_other_way_round() -> Job:
    return arrays(npy(np.arange(12).reshape(3, 4).astype(">f8")))


@CASES.add(ACCEPTED, of=[np.nan, np.inf, -np.inf])
def numbers_that_are_none(value: float) -> Job:
    return arrays(npy(np.full((4, 4), value)))


@CASES.add(ACCEPTED)
def a_number_past_all_counting() -> Job:
    return arrays(npy(np.full((4, 4), 1e300)))


@CASES.add("archive-too-large", heavy=True)
def an_npz_that_bursts() -> Job:
    """Nine gigabytes of zeros in a few megabytes, according to the directory."""
    buffer = io.BytesIO()
    block = bytes(64 << 20)
    packed = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as archive, archive.open("a.npy", "w", force_zip64=True) as entry:
        for _ in range(10):
            entry.write(block)
    data = bytearray(buffer.getvalue())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFFE)
    return arrays(_repeated(bytes(data)))


def _repeated(whole: bytes, many: int = 16) -> bytes:
    """An archive that has its single entry under many names."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.start_dir
    length = struct.unpack_from("<H", whole, start + 30)[0]
    entry = whole[start : start + 46 + 5 + length]
    directory = b"".join(entry[:46] + bytes([65 + i]) + entry[47:] for i in range(many))
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, many, many, len(directory), start, 0)
    return whole[:start] + directory + end


@CASES.add("not-an-array", "out-of-memory", "archive-too-large", heavy=True)
def an_npz_that_bursts_and_lies() -> Job:
    """The directory says 100 bytes; the header in the entry says 3 GB; the data has them."""
    buffer = io.BytesIO()
    block = bytes(64 << 20)
    packed = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as archive, archive.open("a.npy", "w", force_zip64=True) as entry:
        entry.write(header(described("'<f4'", shape=f"({3 * 2**18}, 1024)"), b""))
        for _ in range(48):
            entry.write(block)
    data = bytearray(buffer.getvalue())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 100)
    return arrays(bytes(data))


@CASES.add("not-numbers", of=["../../a.npy", "/etc/passwd", "a.txt", ""])
def an_npz_that_holds(name: str) -> Job:
    return arrays(zipped({name: b"root:x:0:0\n"}))


@CASES.add("unknown-array", of=["b", "", "../a", "a.npy.npy", "x" * 1000])
def a_key_that_is_not_there(key: str) -> Job:
    return arrays(npz(a=np.ones((3, 3)), c=np.ones((3, 3))), key=key)


@CASES.add("unknown-array")
def an_empty_npz() -> Job:
    return arrays(npz())


@CASES.add("arrays-differ")
def arrays_of_different_lengths() -> Job:
    return arrays(npz(a=np.ones((3, 3)), b=np.ones((4, 3))), inputs={"x": "a", "z": "b"})


@CASES.add(
    "not-an-array",
    "unknown-array",
    "archive-too-large",
    "not-numbers",
    "wrong-shape",
    "not-finite",
    "no-examples",
    ACCEPTED,
    of=range(16),
)
def an_array_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    whole = npy(np.ones((4, 4), np.float32)) if seed % 2 else npz(a=np.ones((4, 4), np.float32))
    data = bytearray(whole)
    for position in rng.integers(0, min(len(data), 128), 2):
        data[position] ^= 1 << int(rng.integers(8))
    return arrays(bytes(data))
