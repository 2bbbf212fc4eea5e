"""Archives that expand without bound, have false sizes or point outside, and files that are no pictures."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.case import ACCEPTED, Cases, Job, examples

CASES = Cases()
GRAY = {"size": 4, "channels": "gray"}
OUTSIDE = ("../../../evil.png", "/etc/evil.png", "C:\\evil.png", "a/../../evil.png", "evil\0.png", "\u202egnp.png")


def images(data: bytes, **preprocess: Any) -> Job:
    return examples({"preprocess": GRAY | preprocess}, images=data)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for member, data in members:
            member.size = member.size or len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in more.items():
        setattr(info, field, value)
    return info


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def png(mode: str = "L", size: tuple[int, int] = (6, 5)) -> bytes:
    return encoded(Image.new(mode, size, 7), "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width: int, height: int, packed: bytes, *, depth: int = 8, color: int = 0, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


# Archives


@CASES.add("archive-too-large", of=[zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def a_file_that_bursts(method: int) -> Job:
    return images(zipped({"a.png": bytes(70 << 20)}, method))


@CASES.add("archive-too-large")
def files_that_burst_together() -> Job:
    """Every entry points at the same bytes, as in Fifield's bomb: 300 times 60 MiB out of 60 KiB."""
    whole = zipped({"a.png": bytes(60 << 20)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        start = archive.start_dir
    entry = whole[start : start + 46 + 5]
    many = 300
    directory = b"".join(entry[:46] + f"{i:05}"[-5:].encode()[:1] + f"{i:04}".encode() for i in range(many))
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, many, many, len(directory), start, 0)
    return images(whole[:start] + directory + end)


@CASES.add("archive-too-large", heavy=True)
def too_many_files() -> Job:
    return images(zipped(dict.fromkeys((f"{i}.png" for i in range(200_001)), b""), zipfile.ZIP_STORED))


@CASES.add("corrupt-picture", of=[1, 100])
def a_size_that_lies(size: int) -> Job:
    data = bytearray(zipped({"a.png": bytes(1 << 20)}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", size)
    return images(bytes(data))


@CASES.add("corrupt-picture")
def a_checksum_that_lies() -> Job:
    data = bytearray(zipped({"a.png": png()}))
    at = data.index(b"PK\x01\x02") + 16
    data[at] ^= 255
    return images(bytes(data))


@CASES.add("corrupt-picture")
def a_locked_file() -> Job:
    data = bytearray(zipped({"a.png": png()}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return images(bytes(data))


@CASES.add("corrupt-picture")
def a_packing_that_is_none() -> Job:
    data = bytearray(zipped({"a.png": png()}))
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + at] = 77
    return images(bytes(data))


@CASES.add(ACCEPTED, "no-pictures", of=OUTSIDE)
def a_zip_that_points_outside(name: str) -> Job:
    """Names are only names: nothing is unpacked."""
    return images(zipped({name: png()}))


@CASES.add(ACCEPTED, of=OUTSIDE[:4])
def a_tar_that_points_outside(name: str) -> Job:
    return images(tarred((member(name), png())))


@CASES.add("no-pictures", of=[tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def a_tar_of_something_else(kind: bytes) -> Job:
    return images(tarred((member("a.png", kind, linkname="/etc/passwd"), b"")))


@CASES.add("no-pictures", "corrupt-picture")
def a_zip_of_links() -> Job:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("a.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return images(buffer.getvalue())


@CASES.add("repeated-name")
def two_files_of_one_name_in_a_zip() -> Job:
    data = bytearray(zipped({"a.png": png(), "b.png": png()}))
    return images(bytes(data.replace(b"b.png", b"a.png")))


@CASES.add("repeated-name")
def two_files_of_one_name_in_a_tar() -> Job:
    return images(tarred((member("a.png"), png()), (member("a.png"), png("L", (2, 2)))))


@CASES.add("no-pictures")
def a_zip_in_a_zip_in_a_zip() -> Job:
    inner = zipped({"a.png": png()})
    for _ in range(20):
        inner = zipped({"a.zip": inner})
    return images(inner)


@CASES.add("corrupt-picture")
def a_zip_that_is_called_a_picture() -> Job:
    return images(zipped({"a.png": zipped({"a.png": png()})}))


@CASES.add("no-pictures", "archive-too-large", "not-an-archive", of=["size", "sparse", "negative"])
def a_tar_that_lies(how: str) -> Job:
    whole = bytearray(tarred((member("a.png"), png())))
    if how == "size":
        whole[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
    elif how == "negative":
        whole[124:136] = b"\xff" * 12
    else:
        whole[156:157] = tarfile.GNUTYPE_SPARSE
    header = bytes(whole[:148] + b" " * 8 + whole[156:512])
    whole[148:156] = b"%06o\0 " % sum(header)
    return images(bytes(whole))


@CASES.add("corrupt-picture", "not-an-archive", "no-pictures")
def a_tar_that_ends_early() -> Job:
    return images(tarred((member("a.png"), bytes(5000)))[:1500])


@CASES.add("not-an-archive", "no-pictures", "archive-too-large", of=["path", "size", "endless"])
def a_tar_with_odd_headers(how: str) -> Job:
    info = member("a.png", pax_headers={"path": "x" * 10**6} if how == "path" else {"size": "-5", "path": "b.png"})
    if how == "endless":
        whole = bytearray(tarred((member("a", tarfile.GNUTYPE_LONGNAME), b"a" * 512)))
        return images(bytes(whole) * 50)
    return images(tarred((info, png()), mode="w"))


@CASES.add("not-an-archive", of=["w:gz", "w:bz2", "w:xz"])
def a_packed_tar(mode: str) -> Job:
    """The size of a compressed tar is unknown until it is unpacked."""
    return images(tarred((member("a.png"), png()), mode=mode))


@CASES.add(
    "not-an-archive",
    "no-pictures",
    of=[b"", b"\0", bytes(1024), b"PK\x05\x06", b"Rar!\x1a\x07\x00", b"7z\xbc\xaf\x27\x1c", b"GIF89a"],
)
def no_archive_at_all(data: bytes) -> Job:
    return images(data)


@CASES.add("not-an-archive", "no-pictures", "corrupt-picture", of=[1, 50, 98])
def a_zip_cut_off_at(percent: int) -> Job:
    whole = zipped({f"{i}.png": png() for i in range(20)})
    return images(whole[: len(whole) * percent // 100])


@CASES.add(
    "no-pictures", "not-an-archive", "corrupt-picture", "archive-too-large", "repeated-name", ACCEPTED, of=range(12)
)
def a_zip_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    data = bytearray(zipped({"a.png": png(), "b.png": png()}))
    for position in rng.integers(0, len(data), 3):
        data[position] ^= 1 << int(rng.integers(8))
    return images(bytes(data))


@CASES.add("no-pictures")
def hidden_files_only() -> Job:
    return images(zipped({".a.png": png(), "__MACOSX/._a.png": b"x", "Thumbs.db": b"x", "a.png/": b""}))


@CASES.add("not-an-archive", "no-pictures")
def a_packed_zip() -> Job:
    return images(gzip.compress(zipped({"a.png": png()}), mtime=0))


@CASES.add("not-an-archive")
def a_packed_bomb() -> Job:
    return images(lzma.compress(bytes(16 << 20)))


# Pictures

DISGUISED: dict[str, Callable[[], bytes]] = {
    "gif": lambda: encoded(Image.new("L", (4, 4)), "GIF"),
    "bmp": lambda: encoded(Image.new("L", (4, 4)), "BMP"),
    "ico": lambda: encoded(Image.new("RGBA", (16, 16)), "ICO"),
    "tiff": lambda: encoded(Image.new("L", (4, 4)), "TIFF"),
    "jpeg2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "pcx": lambda: encoded(Image.new("L", (4, 4)), "PCX"),
    "ppm": lambda: b"P6 4 4 255\n" + bytes(48),
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "xml": lambda: b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><x>&a;</x>",
    "pdf": lambda: b"%PDF-1.7\n",
    "psd": lambda: b"8BPS\0\1" + bytes(100),
    "html": lambda: b"<html><script>alert(1)</script>",
    "elf": lambda: b"\x7fELF" + bytes(100),
    "nothing": lambda: b"",
    "pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "mpo": lambda: b"\xff\xd8\xff\xe2\0\x10MPF\0" + bytes(100),
}


@CASES.add("corrupt-picture", of=DISGUISED)
def something_called_a_picture(kind: str) -> Job:
    return images(zipped({"a.png": DISGUISED[kind]()}))


@CASES.add("picture-too-large", of=[(8001, 8000), (2**31 - 1, 1), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def a_picture_that_bursts(width: int, height: int) -> Job:
    return images(zipped({"a.png": raw_png(width, height, zlib.compress(bytes(1000)))}))


@CASES.add("corrupt-picture", "picture-too-large")
def a_webp_that_bursts() -> Job:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", 16383 | 16383 << 14)
    return images(zipped({"a.webp": bytes(data)}))


@CASES.add("corrupt-picture", "picture-too-large")
def a_jpeg_that_bursts() -> Job:
    data = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = b"\xff\xff\xff\xff"
    return images(zipped({"a.jpg": bytes(data)}))


@CASES.add("corrupt-picture", "picture-too-large", of=[(0, 0), (0, 5), (4, 0)])
def a_picture_of_nothing(width: int, height: int) -> Job:
    return images(zipped({"a.png": raw_png(width, height, zlib.compress(b""))}))


@CASES.add("picture-too-long", of=[(60_000, 1), (1, 60_000)])
def a_picture_as_thin_as_a_hair(width: int, height: int) -> Job:
    """Scaled to its shorter side it would have billions of pixels."""
    return images(zipped({"a.png": png("L", (width, height))}), size=224)


@CASES.add("corrupt-picture", of=["PNG", "JPEG", "WEBP"])
def a_picture_that_ends_early(kind: str) -> Job:
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
    return images(zipped({f"a.{kind.lower()}": whole[: len(whole) // 2]}))


@CASES.add(
    ACCEPTED, of=["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "gray-alpha", "palette-hole"]
)
def a_picture_of_an_odd_mode(mode: str) -> Job:
    if mode in ("CMYK", "YCbCr"):
        return images(zipped({"a.jpg": encoded(Image.new(mode, (6, 6)), "JPEG")}), channels="rgb")
    if mode == "palette-hole":
        picture = Image.new("P", (6, 6), 5)
        return images(zipped({"a.png": encoded(picture, "PNG", transparency=5)}), channels="rgb")
    if mode == "PA":
        return images(zipped({"a.png": encoded(Image.new("P", (6, 6)), "PNG", transparency=bytes(256))}))
    picture = Image.new("LA" if mode == "gray-alpha" else mode, (6, 6))
    return images(zipped({"a.png": encoded(picture, "PNG")}), channels="rgb" if mode != "L" else "gray")


@CASES.add("picture-too-bright")
def more_bits_than_the_scanner_stores() -> Job:
    return images(zipped({"a.png": encoded(Image.new("I;16", (6, 6), 4096), "PNG")}), bit_depth=12)


@CASES.add(ACCEPTED)
def sixteen_bits_a_colour() -> Job:
    pixels = zlib.compress((b"\0" + bytes(range(6)) * 4) * 4)
    return images(zipped({"a.png": raw_png(4, 4, pixels, depth=16, color=2)}), channels="rgb")


@CASES.add(ACCEPTED, "corrupt-picture", of=["PNG", "WEBP"])
def a_moving_picture(kind: str) -> Job:
    frames = [Image.new("RGB", (6, 6), (i, i, i)) for i in range(50)]
    return images(zipped({f"a.{kind.lower()}": encoded(frames[0], kind, save_all=True, append_images=frames[1:])}))


@CASES.add(ACCEPTED, of=range(1, 9))
def a_turned_picture(orientation: int) -> Job:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return images(zipped({"a.jpg": encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)}))


@CASES.add(ACCEPTED, "corrupt-picture", of=[b"", b"Exif\0\0" + b"\xff" * 60_000, b"Exif\0\0MM\0*" + b"\xff" * 40])
def remarks_that_are_rubbish(exif: bytes) -> Job:
    return images(zipped({"a.jpg": encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)}))


@CASES.add("corrupt-picture", ACCEPTED, of=[b"iCCP", b"zTXt", b"iTXt"])
def a_remark_that_bursts(kind: bytes) -> Job:
    bomb = b"name\0" + (b"\1\0\0\0" if kind == b"iTXt" else b"\0") + zlib.compress(bytes(80 << 20))
    return images(zipped({"a.png": raw_png(4, 4, zlib.compress(bytes(20)), before=chunk(kind, bomb))}))


@CASES.add("corrupt-picture", ACCEPTED)
def pixels_that_burst() -> Job:
    return images(zipped({"a.png": raw_png(4, 4, zlib.compress(bytes(60 << 20)))}))


@CASES.add("corrupt-picture", ACCEPTED, of=range(12))
def a_picture_with_flipped_bits(seed: int) -> Job:
    rng = np.random.default_rng(seed)
    kind = ("PNG", "JPEG", "WEBP")[seed % 3]
    data = bytearray(encoded(Image.effect_noise((24, 24), 50).convert("RGB"), kind))
    for position in rng.integers(0, len(data), 4):
        data[position] ^= 1 << int(rng.integers(8))
    return images(zipped({f"a.{kind.lower()}": bytes(data)}, zipfile.ZIP_STORED))
