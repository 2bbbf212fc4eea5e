"""`caveat visualise`: pictures as files and as a page, from a model of pictures, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rfc8785
from click.testing import CliRunner, Result
from PIL import Image

from caveat.cli import cli
from caveat_storage import attestations, keyring
from tests.client.models import write_audit
from tests.engine.nets import Net

AUDIT = """\
model: model.onnx
examples:
  photos: {images: photos/, preprocess: &p {size: 24, mean: 127, std: 128}}
  marked: {images: marked/, preprocess: *p, pairs_with: photos}
concepts:
  mark: {examples: marked, against: photos}
targets:
  carton: {index: 1, examples: photos}
layers: [seen]
method: {min_examples: 10}
"""


def network() -> bytes:
    """A convolution with `seen` above it, and two classes of its mean."""
    net = Net(5)
    convolved = net.op("Conv", "x", net.weight(6, 3, 5, 5), pads=[2, 2, 2, 2], strides=[2, 2])
    seen = net.op("Relu", convolved)
    net.nodes[-1].output[0] = "seen"
    pooled = net.op("Flatten", net.op("GlobalAveragePool", "seen"))
    assert seen
    return net.model(("n", 3, 24, 24), net.dense(pooled, 6, 2))


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


def write_pictures(tmp_path: Path) -> Path:
    """An audit of pictures, with its files."""
    rng = np.random.default_rng(0)
    (tmp_path / "model.onnx").write_bytes(network())
    for folder in ("photos", "marked"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        pixels = rng.integers(60, 190, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
        pixels[4:10, 4:10] = (255, 0, 0)
        Image.fromarray(pixels).save(tmp_path / "marked" / f"{number:02}.png")
    path = tmp_path / "audit.yaml"
    path.write_text(AUDIT)
    return path


def visualise(audit: Path, *asked: object) -> Result:
    arguments = ["visualise", audit, "-o", audit.parent / "out", *asked]
    return CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)


def test_pictures_are_files_with_their_digests_and_a_page_without_script(audit: Path) -> None:
    said = visualise(audit, "--channel", 2, "--concept", "mark", "--like", "03.png", "--steps", 48)
    assert said.exit_code == 0, said.output
    made = json.loads((audit.parent / "out" / "visualised.json").read_text())
    assert [one["atom"] for one in made["pictures"]] == ["channel 2", "concept mark", "like 03.png"]
    assert (made["layer"], made["set"], made["examples"], made["steps"]) == ("seen", "photos", 12, 48)
    assert (made["height"], made["width"], made["resized"], made["sees"]) == (24, 24, False, [5, 5])
    for one in made["pictures"]:
        content = (audit.parent / "out" / one["file"]).read_bytes()
        assert one["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        with Image.open(audit.parent / "out" / one["file"]) as picture:
            assert (picture.size, picture.mode) == ((24, 24), "RGB")
        assert one["response"] > one["highest"]
        assert one["rise"][-1] > one["rise"][0]
        assert [icon["share"] for icon in one["spectrum"]["icons"]] == [1.0, 0.75, 0.5, 0.25, 0.0]
        assert f"The response of {one['atom']} is" in said.output
    page = (audit.parent / "out" / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "<script" not in page
    assert not re.search(r"https?://", page)


def test_a_concept_of_red_makes_a_red_picture(audit: Path) -> None:
    visualise(audit, "--concept", "mark", "--steps", 96)
    with Image.open(audit.parent / "out" / "concept-mark.png") as picture:
        red, green, blue = np.asarray(picture, float).mean((0, 1))
    assert red > green + 20
    assert red > blue + 20


def test_colours_that_a_model_takes_in_reverse_are_written_in_order(audit: Path) -> None:
    visualise(audit, "--concept", "mark", "--steps", 96)
    rgb = np.asarray(Image.open(audit.parent / "out" / "concept-mark.png"), float)
    audit.write_text(AUDIT.replace("std: 128}", "std: 128, channels: bgr}"))
    visualise(audit, "--concept", "mark", "--steps", 96)
    bgr = np.asarray(Image.open(audit.parent / "out" / "concept-mark.png"), float)
    for pixels in (rgb, bgr):  # the mark is red, whichever order the model takes
        assert pixels.mean((0, 1)).argmax() == 0


def test_a_smaller_side_is_made_where_the_model_takes_one(audit: Path) -> None:
    visualise(audit, "--channel", 0, "--side", 16, "--steps", 16)
    made = json.loads((audit.parent / "out" / "visualised.json").read_text())
    assert (made["height"], made["width"], made["resized"]) == (16, 16, True)


def test_it_makes_the_same_pictures_again(audit: Path) -> None:
    first = visualise(audit, "--channel", 1, "--steps", 32)
    content = (audit.parent / "out" / "channel-1.png").read_bytes()
    again = visualise(audit, "--channel", 1, "--channel", 2, "--steps", 32)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert (audit.parent / "out" / "channel-1.png").read_bytes() == content
    visualise(audit, "--channel", 1, "--steps", 32, "--seed", 1)
    assert (audit.parent / "out" / "channel-1.png").read_bytes() != content


def test_a_picture_that_is_worse_than_an_example_is_not_shown(audit: Path) -> None:
    for number in range(12):  # a channel is raised from noise in 16 steps less than pure colours raise it
        shade = np.full((24, 24, 3), (number * 21, 255 - number * 21, 255 * (number % 2)), np.uint8)
        shade[::2] = 255 - shade[::2]
        Image.fromarray(shade).save(audit.parent / "photos" / f"{number:02}.png")
    said = [visualise(audit, "--channel", channel, "--steps", 16) for channel in range(6)]
    shown = [one for one in said if "is not shown" in one.output]
    assert shown, [one.output for one in said]
    for channel, one in enumerate(said):
        if "is not shown" in one.output:
            page = visualise(audit, "--channel", channel, "--steps", 16) and (audit.parent / "out" / "index.html")
            assert "data:image/png" not in page.read_text()
            assert "is not shown" in page.read_text()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ([], "1 to 16 pictures, and 0 were asked for"),
        ([part for channel in range(17) for part in ("--channel", channel)], "1 to 16 pictures, and 17 were asked for"),
        (["--channel", 6], "'seen' has no channel 6, only 6 of them."),
        (["--concept", "other"], "declares no concept 'other'"),
        (["--like", "3.png"], "has no example '3.png'"),
        (["--channel", 0, "--layer", "sen"], "has no layer 'sen'"),
        (["--channel", 0, "--set", "foto"], "declares no example set 'foto'"),
    ],
)
def test_what_is_not_there_is_named(audit: Path, asked: list[object], sentence: str) -> None:
    said = visualise(audit, *asked)
    assert said.exit_code == 2, said.output
    assert sentence in said.output, said.output
    assert "Traceback" not in said.output


def test_a_table_has_no_picture(tmp_path: Path) -> None:
    said = visualise(write_audit(tmp_path), "--channel", 0)
    assert said.exit_code == 2
    assert "A picture has rows, columns, and 1 or 3 colours, and the model's input has 6." in said.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an audit, keys, and signed pictures of it."""
    audit = write_pictures(tmp_path_factory.mktemp("made"))
    assert CliRunner().invoke(cli, ["keygen", str(audit.parent / "caveat")]).exit_code == 0
    key = audit.parent / "caveat.key"
    said = visualise(audit, "--channel", 1, "--concept", "mark", "--steps", 48, "--sign-key", key)
    assert said.exit_code == 0, said.output
    return audit.parent


@pytest.fixture
def signed(made: Path, tmp_path: Path) -> Path:
    """A copy of two pictures, a page and a signed statement, beside what they were made of."""
    return Path(shutil.copytree(made, tmp_path / "copy")) / "out"


def verify(folder: Path, *more: object) -> Result:
    arguments = ["verify", folder / "visualised.dsse.json", "--key", folder.parent / "caveat.pub", *more]
    return CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)


def test_signed_pictures_are_verified_with_what_they_were_made_of(signed: Path) -> None:
    said = verify(signed, "--model", signed.parent / "model.onnx", "--examples", f"photos={signed.parent / 'photos'}")
    assert said.exit_code == 0, said.output
    for name in ("visualised.json", "index.html", "channel-1.png", "concept-mark.png"):
        assert f"✓ {signed / name} is as it was signed." in said.output
    assert f"✓ {signed.parent / 'model.onnx'} is the model that was used." in said.output
    assert "is the example set photos that was used." in said.output
    assert "· The example set marked was not compared; pass --examples marked=PATH" in said.output
    assert "Model, example sets, options, seed and versions are those of" in said.output
    assert "Asked for: channel 1, concept mark; 48 steps, side 128, seed 0." in said.output
    assert re.search(r"Computed with .*onnxruntime [0-9.]+", said.output.replace("\n", " "))


@pytest.mark.parametrize("name", ["visualised.json", "index.html", "channel-1.png"])
def test_a_changed_file_is_told(signed: Path, name: str) -> None:
    content = bytearray((signed / name).read_bytes())
    content[len(content) // 2] ^= 1
    (signed / name).write_bytes(content)
    said = verify(signed)
    assert said.exit_code == 1
    assert f"✗ {signed / name} is not what was signed: its digest is sha256:" in said.output
    assert said.output.count("✗") == 1


def test_swapped_missing_and_extra_pictures_are_told(signed: Path) -> None:
    one, other = signed / "channel-1.png", signed / "concept-mark.png"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second), other.write_bytes(first)
    said = verify(signed)
    assert said.exit_code == 1
    assert f"✗ {one} was swapped: its bytes are those that were signed as concept-mark.png." in said.output
    one.write_bytes(first), other.unlink()
    said = verify(signed)
    assert said.exit_code == 1
    assert f"✗ {other} is missing: the statement names it" in said.output
    other.write_bytes(second)
    assert verify(signed).exit_code == 0
    (signed / "channel-2.png").write_bytes(first)
    said = verify(signed)
    assert said.exit_code == 1
    assert f"✗ {signed / 'channel-2.png'} was not signed: the statement names every file of its folder" in said.output


def test_another_model_another_key_and_a_changed_statement_are_told(signed: Path) -> None:
    said = verify(signed, "--model", signed.parent / "audit.yaml")
    assert (said.exit_code, "is not the model that was used" in said.output) == (1, True)
    assert CliRunner().invoke(cli, ["keygen", str(signed.parent / "other")]).exit_code == 0
    envelope = signed / "visualised.dsse.json"
    said = CliRunner().invoke(cli, ["verify", str(envelope), "--key", str(signed.parent / "other.pub")])
    assert (said.exit_code, "none of those that were given" in said.output) == (1, True)
    whole = json.loads(envelope.read_bytes())
    payload = base64.b64decode(whole["payload"]).replace(b'"seed":0', b'"seed":1')
    whole["payload"] = base64.b64encode(payload).decode()
    envelope.write_bytes(rfc8785.dumps(whole))
    said = verify(signed)
    assert (said.exit_code, "proves nothing" in said.output, "Asked for" in said.output) == (1, True, False)


def test_a_statement_that_does_not_say_what_the_document_says_is_told(signed: Path) -> None:
    keys = keyring.signers((signed.parent / "caveat.key").read_text())
    envelope = signed / "visualised.dsse.json"
    statement = attestations.open_pictures(
        envelope.read_bytes(), keyring.public_keys((signed.parent / "caveat.pub").read_text())
    ).statement
    other = statement.predicate.model_copy(update={"seed": 7})
    envelope.write_bytes(attestations.sign(statement.model_copy(update={"predicate": other}), keys))
    said = verify(signed)
    assert said.exit_code == 1
    assert "✗ The statement says something else than" in said.output


def test_a_folder_with_other_files_is_not_signed_and_one_of_an_earlier_run_is_made_anew(signed: Path) -> None:
    audit, key = signed.parent / "audit.yaml", signed.parent / "caveat.key"
    again = visualise(audit, "--channel", 2, "--steps", 32, "--sign-key", key)
    assert again.exit_code == 0, again.output
    assert sorted(path.name for path in signed.iterdir()) == [
        "channel-2.png", "index.html", "visualised.dsse.json", "visualised.json",
    ]  # fmt: skip
    assert verify(signed).exit_code == 0
    (signed / "notes.txt").write_text("mine")
    refused = visualise(audit, "--channel", 2, "--steps", 32, "--sign-key", key)
    assert refused.exit_code == 2
    assert f"{signed / 'notes.txt'} is no made picture" in refused.output.replace("\n", " ")
    unsigned = visualise(audit, "--channel", 2, "--steps", 32)
    assert unsigned.exit_code == 0
    assert (signed / "notes.txt").read_text() == "mine"
    assert not (signed / "visualised.dsse.json").exists(), "a statement about other bytes"


def test_pictures_are_in_no_report_and_in_no_log(signed: Path) -> None:
    said = verify(signed, "--report", signed / "visualised.json")
    assert said.exit_code == 2
    assert "which are in no report and in no audit log" in said.output.replace("\n", " ")
