"""A model whose weights are in other files: found, checked, and hashed together with it."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat.auditfile import read_audit, resolve
from caveat.external_data import Reference, references
from caveat.gradient import write_gradient
from caveat.pack import Archive, addressed, chunks, content_of, digest, size_of
from caveat.problems import ProblemError
from tests.client.conftest import Command
from tests.client.models import write_audit


def split(model: Path, *, location: str = "mlp.onnx.data") -> Path:
    """The model with its weights in a data file beside it."""
    onnx.save(onnx.load(model), model, save_as_external_data=True, location=location, size_threshold=0)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_audit(tmp_path)
    return split(tmp_path / "mlp.onnx")


def relocated(model: Path, location: str) -> None:
    """Renames the data file in the model."""
    proto = onnx.load(model, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    model.write_bytes(proto.SerializeToString())


def external(name: str, location: str, **more: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_every_place_of_a_tensor_is_found(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=external("constant in a branch", "b"))],
        "branch",
        [],
        [],
        [external("initializer of a branch", "c", offset=8, length=4)],
    )
    body = [helper.make_node("Constant", [], ["c"], value=external("constant in a function", "d"))]
    function = helper.make_function("own", "F", [], [], body, [helper.make_opsetid("", 18)])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)]
    inline = numpy_helper.from_array(np.zeros(2, np.float32), "inside")
    graph = helper.make_graph(nodes, "net", [], [], [inline, external("initializer", "é/a")])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, functions=[function]).SerializeToString())
    assert set(references(tmp_path / "m.onnx")) == {
        Reference("initializer", "é/a", 0),
        Reference("constant in a branch", "b", 0),
        Reference("initializer of a branch", "c", 12),
        Reference("constant in a function", "d", 0),
    }


def test_a_model_in_one_file_keeps_the_digest_of_the_file(tmp_path: Path) -> None:
    write_audit(tmp_path)
    model = tmp_path / "mlp.onnx"
    content, found = addressed(model)
    assert content == model
    assert found == f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data[:40], lambda _: b"", lambda _: b"\x08"])
def test_what_is_no_model_is_a_file_like_any_other(model: Path, damage: object) -> None:
    assert callable(damage)
    model.write_bytes(damage(model.read_bytes()))
    assert content_of(model) == model


def test_an_archive_holds_the_model_and_every_data_file(tmp_path: Path) -> None:
    write_audit(tmp_path)
    model = tmp_path / "mlp.onnx"
    proto = onnx.load(model)
    (tmp_path / "weights").mkdir()
    for tensor in proto.graph.initializer:
        (tmp_path / "weights" / f"{tensor.name}.bin").write_bytes(tensor.raw_data)
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=f"./weights/{tensor.name}.bin")
    model.write_bytes(proto.SerializeToString())
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks(content_of(model))))) as archive:
        names = ["model.onnx", *(f"weights/{name}.bin" for name in ("b1", "b2", "b3", "w1", "w2", "w3"))]
        assert archive.getnames() == names
        found = archive.extractfile("weights/w2.bin")
        assert found is not None
        assert found.read() == (tmp_path / "weights" / "w2.bin").read_bytes()


def test_the_digest_is_of_every_byte_and_not_of_the_models_name(model: Path) -> None:
    _, before = addressed(model)
    renamed = model.rename(model.with_name("other.onnx"))
    assert addressed(renamed)[1] == before
    data = model.with_name("mlp.onnx.data")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    assert addressed(renamed)[1] != before


def test_an_archive_can_be_read_from_any_byte(model: Path) -> None:
    archive = content_of(model)
    whole = b"".join(chunks(archive))
    assert size_of(archive) == len(whole)
    for offset in [*range(0, len(whole), 211), 511, 512, 513, len(whole) - 1, len(whole)]:
        assert b"".join(chunks(archive, offset)) == whole[offset:]


def test_a_data_file_that_shrinks_while_it_is_read_is_told(model: Path) -> None:
    archive = content_of(model)
    assert isinstance(archive, Archive)
    assert archive.size > 0
    os.truncate(model.with_name("mlp.onnx.data"), 10)
    with pytest.raises(ProblemError, match=r"mlp\.onnx\.data changed while it was read"):
        list(archive.chunks())


def absent(model: Path) -> None:
    model.with_name("mlp.onnx.data").unlink()


def short(model: Path) -> None:
    os.truncate(model.with_name("mlp.onnx.data"), 100)


def above(model: Path) -> None:
    relocated(model, "../mlp.onnx.data")


def anywhere(model: Path) -> None:
    relocated(model, str(model.with_name("mlp.onnx.data")))


def linked(model: Path) -> None:
    data = model.with_name("mlp.onnx.data")
    data.symlink_to(data.rename(model.parent.parent / f"{model.parent.name} secret"))


def linked_folder(model: Path) -> None:
    outside = model.parent.parent / f"{model.parent.name} outside"
    outside.mkdir()
    model.with_name("mlp.onnx.data").rename(outside / "w.bin")
    (model.parent / "weights").symlink_to(outside)
    relocated(model, "weights/w.bin")


def second_name(model: Path) -> None:
    os.link(model.with_name("mlp.onnx.data"), model.with_name("second"))


def as_the_model(model: Path) -> None:
    relocated(model, "model.onnx")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (absent, "has weights in 'mlp.onnx.data', and there is no such file beside it"),
        (short, "up to byte 392, and that file has 100 bytes"),
        (above, "are in '../mlp.onnx.data', which is not a file beside the model"),
        (anywhere, "which is not a file beside the model"),
        (linked, "has weights in 'mlp.onnx.data', which is a link"),
        (linked_folder, "which is a link"),
        (second_name, "has weights in 'mlp.onnx.data', which is a link"),
        (as_the_model, "are in 'model.onnx', which is not a file beside the model"),
    ],
)
def test_data_that_is_not_beside_the_model_is_refused_before_anything_is_sent(
    model: Path, change: object, told: str, command: Command
) -> None:
    assert callable(change)
    change(model)
    with pytest.raises(ProblemError) as caught:
        resolve(read_audit(model.with_name("audit.yaml")))
    assert told in caught.value.problem.detail
    assert caught.value.problem.remedy
    assert [fault.pointer for fault in caught.value.problem.errors] == ["/model"]
    with pytest.raises(ProblemError) as caught:
        write_gradient(model, ["hidden"], ["1"], model.with_name("g.onnx"))
    assert (caught.value.exit_code, told in caught.value.problem.detail) == (2, True)


def test_the_pair_gives_the_answers_of_one_file(model: Path, command: Command) -> None:
    whole = model.with_name("whole.onnx")
    onnx.save(onnx.load(model), whole)
    layers, same = command("layers", model, "--json"), command("layers", whole, "--json")
    assert (layers.returncode, layers.stdout) == (0, same.stdout), layers.stderr
    audited = command("gate", "audit.yaml", "--json", "report.json")
    assert audited.returncode == 1, audited.stderr
    assert digest(model) not in model.with_name("report.json").read_text()
    assert addressed(model)[1] in model.with_name("report.json").read_text()


def test_a_gradient_never_replaces_the_weights_that_it_reads(model: Path) -> None:
    before = model.with_name("mlp.onnx.data").read_bytes()
    for path in (model, model.with_name("mlp.onnx.data")):
        with pytest.raises(ProblemError, match="would replace the model"):
            write_gradient(model, ["hidden"], ["1"], path)
    assert model.with_name("mlp.onnx.data").read_bytes() == before
