"""A model and its data files on a service: one upload, one digest, one attestation, and the local answer."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import httpx2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat import Client, local, remote
from caveat.auditfile import read_audit, resolve
from caveat.pack import addressed
from caveat.problems import ProblemError
from caveat_spec.artifacts import NewModel
from tests.client.conftest import Command
from tests.client.models import write_audit
from tests.client.test_external_data import split
from tests.client.test_upload import cut
from tests.needed import package

pytestmark = pytest.mark.xdist_group("up")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_audit(tmp_path)
    return split(tmp_path / "mlp.onnx")


@pytest.mark.slow
def test_the_service_gives_the_local_report_and_attests_every_byte(
    model: Path, service: str, service_keys: object, command: Command
) -> None:
    public = model.with_name("service.pub")
    public.write_text(service_keys.public)  # type: ignore[attr-defined]
    here = command("gate", "audit.yaml", "--json", "here.json")
    there = command("gate", "audit.yaml", "--url", service, "--json", "there.json", "--attestation", "signed.json")
    assert (here.returncode, there.returncode) == (1, 1), here.stderr + there.stderr
    assert model.with_name("here.json").read_bytes() == model.with_name("there.json").read_bytes()
    check = ("verify", "signed.json", "--key", public, "--model", model)
    assert "is the model that was audited" in command(*check).stdout
    data = model.with_name("mlp.onnx.data")
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    changed = command(*check)
    assert (changed.returncode, "is not the model that was audited" in changed.stdout) == (1, True)


def test_a_model_is_downloaded_as_files_that_work(model: Path, service: str, tmp_path: Path) -> None:
    with Client(service) as client:
        name = client.put(model)
        assert client.put(model) == name
    archive = httpx2.get(f"{service}/v1/blobs/{name}").content
    assert f"sha256:{hashlib.sha256(archive).hexdigest()}" == name == addressed(model)[1]
    (tmp_path / "unpacked").mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:  # Debian's Python 3.11 has no filter to extract with
            content = tar.extractfile(member)
            assert content is not None
            (tmp_path / "unpacked" / member.name).write_bytes(content.read())
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer}
    unpacked = onnx.load(tmp_path / "unpacked" / "model.onnx").graph.initializer
    assert all(np.array_equal(numpy_helper.to_array(one), weights[one.name]) for one in unpacked)


def test_any_tar_that_holds_the_model_will_do(model: Path, service: str) -> None:
    """As another HTTP client makes it, with times and owners."""
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as tar:
        tar.add(model, "model.onnx")
        tar.add(model.with_name("mlp.onnx.data"), "mlp.onnx.data")
    path = model.with_name("bundle.tar")
    path.write_bytes(into.getvalue())
    with Client(service) as client:
        record = client.register_model(NewModel(blob=client.put(path)))
    assert record.inspection is not None
    assert [layer.tensor for layer in record.inspection.layers if layer.auditable]


def test_a_model_that_comes_without_its_data_is_told_what_to_do(model: Path, service: str) -> None:
    name = f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    with Client(service) as client, pytest.raises(ProblemError, match="did not come with the model") as caught:
        client.register_model(NewModel(blob=client.put(model, known_as=name)))
    assert "tar" in caught.value.problem.remedy


def test_an_upload_of_a_pair_goes_on_where_its_connection_was_cut(tmp_path: Path, service: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[6 << 20], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    (tmp_path / "w.bin").write_bytes(os.urandom(24 << 20))
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "net", [], [], [tensor])
    model = tmp_path / "m.onnx"
    model.write_bytes(helper.make_model(graph).SerializeToString())
    with cut(service) as proxy, Client(proxy.url) as client:
        name = client.put(model)
    assert proxy.cut == 2
    assert proxy.passed < (24 << 20) + (9 << 20), "bytes that had arrived were sent again"
    sent = hashlib.sha256(httpx2.get(f"{service}/v1/blobs/{name}").content).hexdigest()
    assert f"sha256:{sent}" == name == addressed(model)[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch has many of its own
def test_the_default_export_of_torch_goes_through_every_command(tmp_path: Path, service: str, command: Command) -> None:
    package("torch")
    import torch  # the quick tests do without

    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)]
    network = torch.nn.Sequential(*layers).eval()
    torch.onnx.export(network, (torch.randn(2, 6),), str(tmp_path / "m.onnx"))
    assert (tmp_path / "m.onnx.data").is_file()
    random = np.random.default_rng(0)
    np.save(tmp_path / "reference.npy", random.normal(size=(80, 6)).astype(np.float32))
    np.save(tmp_path / "concept.npy", random.normal(size=(40, 6)).astype(np.float32) + 1)
    reports = []
    for where in ([], ["--url", service]):
        listed = command("layers", "m.onnx", *where)
        assert listed.returncode == 0, listed.stderr
        drafted = command("init", "m.onnx", "--force", *where)
        assert drafted.returncode == 0, drafted.stderr
        audited = command("gate", "audit.yaml", "--json", "report.json", *where)
        assert audited.returncode in (0, 1, 4), audited.stderr
        reports.append((tmp_path / "report.json").read_bytes())
    assert reports[0] == reports[1]
    written = command("differentiate", "m.onnx", "--layer", "tanh", "--target", "1", "-o", "gradient.onnx")
    assert "It agrees with finite differences" in written.stdout, written.stderr
    asked = (tmp_path / "audit.yaml").read_text()
    split(tmp_path / "gradient.onnx", location="gradient.onnx.data")
    asked = asked.replace("layers: auto", "layers: [tanh]\ngradient: gradient.onnx").replace("answer", "'1'")
    asked = asked.replace("index: 0", "index: 1").replace(", versus: 0", "")
    (tmp_path / "supplied.yaml").write_text(asked)
    supplied = command("gate", "supplied.yaml", "--url", service)
    assert supplied.returncode in (0, 1, 4), supplied.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_weights_beyond_two_gigabytes_are_mapped(tmp_path: Path, service: str) -> None:
    """A table of 2.2 GB, most of it a hole in a sparse file, of which the model reads a row."""
    write_audit(tmp_path)
    model = tmp_path / "mlp.onnx"
    proto = onnx.load(model)
    rows = (2200 << 20) // 24
    table = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=[rows, 6], data_location=TensorProto.EXTERNAL)
    table.external_data.add(key="location", value="table.bin")
    (tmp_path / "table.bin").touch()
    os.truncate(tmp_path / "table.bin", rows * 24)
    proto.graph.initializer.extend([table, numpy_helper.from_array(np.array(rows - 1), "row")])
    proto.graph.node.insert(0, helper.make_node("Gather", ["table", "row"], ["bias"]))
    proto.graph.node.insert(1, helper.make_node("Add", ["x", "bias"], ["shifted"]))
    proto.graph.node[2].input[0] = "shifted"
    model.write_bytes(proto.SerializeToString())
    resolved = resolve(read_audit(tmp_path / "audit.yaml"))
    here = local.run_audit(resolved, lambda *_: None)
    there, _ = remote.run_audit(service, None, resolved, lambda *_: None)
    assert here == there
