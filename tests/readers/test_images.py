"""Pictures: order, preprocessing, archives, and the errors of each."""

from __future__ import annotations

import io
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caveat_spec.audit import Images, Preprocess
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.registry import open_examples
from tests.readers.conftest import at


def png(color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tarred(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def declared(**preprocess: object) -> Images:
    return Images(images="x", preprocess=Preprocess.model_validate({"size": 4, **preprocess}))


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_pictures_come_in_the_order_of_their_names(tmp_path: Path, pack) -> None:
    path = pack(tmp_path / "a", {"b.png": png((0, 255, 0)), "a.png": png((255, 0, 0)), "notes.txt": b"x"})
    source = open_examples(declared(), at(path), seed=0)
    assert source.names == ("a.png", "b.png")
    assert source.shapes[ONLY] == (3, 4, 4)
    first, second = source.load([0, 1])[ONLY]
    assert first[:, 0, 0].tolist() == [255, 0, 0]
    assert second[:, 0, 0].tolist() == [0, 255, 0]


def test_preprocessing_does_what_it_says(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": png((10, 20, 30))})
    mean, std = [1.0, 2.0, 3.0], [2.0, 4.0, 8.0]
    rgb = open_examples(declared(mean=mean, std=std), at(path), 0).load([0])[ONLY][0, :, 0, 0]
    np.testing.assert_allclose(rgb, (np.array([10, 20, 30]) - mean) / std)
    bgr = open_examples(declared(channels="bgr", layout="nhwc"), at(path), 0).load([0])[ONLY]
    assert bgr.shape == (1, 4, 4, 3)
    assert bgr[0, 0, 0].tolist() == [30, 20, 10]
    gray = open_examples(declared(channels="gray"), at(path), 0)
    assert gray.shapes[ONLY] == (1, 4, 4)


@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_sixteen_bits_of_grey_are_scaled_and_not_cut_off(tmp_path: Path, channels: str) -> None:
    """A radiograph: 300 of 65,535 is almost black, and the picture that people are shown has the same greys."""
    path = zipped(tmp_path / "a.zip", {"a.png": deep([0, 300, 25_700, 65_535])})
    source = open_examples(declared(channels=channels), at(path), 0)
    pixels = source.load([0])[ONLY][0]
    assert pixels.shape == (1 if channels == "gray" else 3, 4, 4)
    for plane in pixels:
        assert plane[0].tolist() == pytest.approx([0, 300 / 257, 100, 255])
    assert source.thumbnail is not None
    assert source.warnings == ()
    shown = np.asarray(Image.open(io.BytesIO(source.thumbnail(0, False, 4))).convert("L"))
    assert shown[0, 1] < 40 < shown[0, 2] < 160 < shown[0, 3]


def deep(greys: list[int]) -> bytes:
    """A PNG of 16 bits whose rows have these greys."""
    buffer = io.BytesIO()
    Image.fromarray(np.array([greys] * len(greys), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_scanner_of_twelve_bits_keeps_each_of_its_greys(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": deep([0, 1, 2_047, 4_095])})
    how = declared(channels="gray", bit_depth=12, mean=0, std=255)
    source = open_examples(how, at(path), 0)
    assert source.load([0])[ONLY][0, 0, 0].tolist() == pytest.approx([0, 1 / 4095, 2047 / 4095, 1])
    assert source.warnings == ()
    assert source.thumbnail is not None
    shown = np.asarray(Image.open(io.BytesIO(source.thumbnail(0, False, 4))).convert("L"))
    assert shown[0, 0] < 40 < shown[0, 2] < 160 < shown[0, 3]


def test_greys_of_twelve_bits_in_pictures_of_sixteen_are_told(tmp_path: Path) -> None:
    files = {"a.png": deep([0, 1, 2, 3]), "b.png": deep([0, 1, 2_047, 4_095]), "c.png": png((9, 9, 9))}
    (clause,) = open_examples(declared(), at(zipped(tmp_path / "a.zip", files)), 0).warnings
    assert clause == (
        "no grey of 2 pictures of 16 bits is over 4,095 of 65,535, so they are almost black to the model; if their "
        "scanner stores 12 bits, set `bit_depth: 12` in 'preprocess'"
    )
    black = {"a.png": deep([0, 0, 0, 0])}
    assert open_examples(declared(), at(zipped(tmp_path / "b.zip", black)), 0).warnings == ()


def test_greys_beyond_the_bits_that_a_scanner_is_said_to_have_are_refused(tmp_path: Path) -> None:
    source = open_examples(declared(bit_depth=10), at(zipped(tmp_path / "a.zip", {"a.png": deep([0, 4_095])})), 0)
    with pytest.raises(InvalidInput) as refused:
        source.load([0])
    assert refused.value.code == "picture-too-bright"
    assert "has a grey of 4,095, and 10 bits hold 1,023 at most" in refused.value.sentence
    assert "to 12, or leave it out" in refused.value.remedy


def test_bicubic_greys_of_sixteen_bits_stay_between_black_and_white(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": deep([0, 65_535] * 8)})
    pixels = open_examples(declared(interpolation="bicubic", size=40), at(path), 0).load([0])[ONLY]
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_pictures_that_a_viewer_turns_are_told_and_not_turned(tmp_path: Path) -> None:
    """The red half is on the left where it is stored; a viewer shows it above."""
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, :4, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.fromarray(halves).save(turned, "PNG", exif=exif)
    files = {"a.png": turned.getvalue(), "b.png": png((0, 0, 0))}
    source = open_examples(declared(interpolation="nearest"), at(zipped(tmp_path / "a.zip", files)), 0)
    (clause,) = source.warnings
    assert clause.startswith("1 of 2 pictures have EXIF data by which a viewer turns them")
    assert source.load([0])[ONLY][0, 0].tolist() == [[255, 255, 0, 0]] * 4
    upright = open_examples(declared(), at(zipped(tmp_path / "b.zip", {"b.png": png((0, 0, 0))})), 0)
    assert upright.warnings == ()


def test_crop_keeps_the_centre_and_squash_keeps_everything(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, :8], wide[:, 16:] = (255, 0, 0), (0, 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    path = zipped(tmp_path / "a.zip", {"a.png": buffer.getvalue()})
    cropped = open_examples(declared(interpolation="nearest"), at(path), 0).load([0])[ONLY]
    squashed = open_examples(declared(interpolation="nearest", fit="squash"), at(path), 0).load([0])[ONLY]
    assert cropped.max() == 0
    assert squashed[0, 0, 0, 0] == 255
    assert squashed[0, 2, 0, -1] == 255


def test_a_size_has_a_height_and_a_width(tmp_path: Path) -> None:
    columns = np.repeat(np.arange(24, dtype=np.uint8)[None], 8, axis=0)
    buffer = io.BytesIO()
    Image.fromarray(columns).save(buffer, "PNG")
    path = zipped(tmp_path / "a.zip", {"a.png": buffer.getvalue()})
    how = {"channels": "gray", "interpolation": "nearest"}

    def first_row(**preprocess: object) -> list[float]:
        source = open_examples(declared(**how, **preprocess), at(path), 0)
        (pixels,) = source.load([0])[ONLY]
        assert pixels.shape == source.shapes[ONLY]
        return pixels[..., 0].ravel().tolist() if "layout" in preprocess else pixels[0, 0].tolist()

    assert first_row(size=[8, 12]) == list(range(6, 18))
    assert first_row(size=[4, 12]) == list(range(1, 24, 2))
    assert first_row(size=[8, 12], fit="squash") == list(range(1, 24, 2))
    assert first_row(size=[4, 6], resize=8) == list(range(9, 15))
    assert len(first_row(size=[8, 12], layout="nhwc")) == 8 * 12
    thumbnail = open_examples(declared(**how, size=[8, 24]), at(path), 0).thumbnail
    assert thumbnail is not None
    assert Image.open(io.BytesIO(thumbnail(0, False, 96))).size == (96, 32)


def test_a_sample_takes_the_same_names_in_every_set(tmp_path: Path) -> None:
    names = [f"{i:02}" for i in range(20)]
    one = zipped(tmp_path / "a.zip", {f"{name}.png": png((1, 2, 3)) for name in names})
    two = zipped(tmp_path / "b.zip", {f"marked/{name}.png": png((1, 2, 3)) for name in reversed(names)})
    some = declared().model_copy(update={"limit": 7})
    first, second = open_examples(some, at(one), 3), open_examples(some, at(two), 3)
    assert len(first) == 7
    assert first.keys == second.keys
    assert open_examples(some, at(one), 4).keys != first.keys


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="none of them is a picture") as caught:
        open_examples(declared(), at(zipped(tmp_path / "a.zip", {})), 0)
    assert caught.value.code == "no-pictures"


def test_bytes_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"not an archive at all")
    with pytest.raises(InvalidInput, match="neither a zip nor an uncompressed tar"):
        open_examples(declared(), at(path), 0)


@pytest.mark.parametrize("bad", [b"", b"\x89PNG but not really", png((1, 2, 3))[:40]])
def test_a_corrupt_picture_among_good_ones_is_named(tmp_path: Path, bad: bytes) -> None:
    path = zipped(tmp_path / "a.zip", {"good.png": png((1, 2, 3)), "worse.png": bad})
    source = open_examples(declared(), at(path), 0)
    source.load([0])[ONLY]
    with pytest.raises(InvalidInput, match=r"worse\.png") as caught:
        source.load([0, 1])
    assert caught.value.code == "corrupt-picture"


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = bytearray(png((0, 0, 0), (1, 1)))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    path = zipped(tmp_path / "a.zip", {"bomb.png": bytes(header)})
    with pytest.raises(InvalidInput, match=r"bomb\.png"):
        open_examples(declared(), at(path), 0).load([0])[ONLY]


def test_thumbnails_are_small_pictures(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.png": png((10, 20, 30), (300, 200))})
    source = open_examples(declared(), at(path), 0)
    assert source.thumbnail is not None
    sharp, blurred = source.thumbnail(0, False, 96), source.thumbnail(0, True, 96)
    assert Image.open(io.BytesIO(sharp)).size == (96, 96)
    assert sharp == source.thumbnail(0, False, 96)
    assert Image.open(io.BytesIO(blurred)).size == (96, 96)


def test_a_thumbnail_is_what_the_model_sees(tmp_path: Path) -> None:
    wide = np.zeros((100, 100, 3), np.uint8)
    wide[20:80, 20:80] = 255
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    path = zipped(tmp_path / "a.zip", {"a.png": buffer.getvalue()})
    source = open_examples(declared(size=50, resize=100), at(path), 0)
    assert source.thumbnail is not None
    shown = np.asarray(Image.open(io.BytesIO(source.thumbnail(0, False, 96))))
    assert shown.min() > 240, "the dark margin is cropped away, as it is for the model"
