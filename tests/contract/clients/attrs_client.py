"""An audit by the client of openapi-python-client: URL, folder of an audit → the report's outcome."""

import hashlib
import io
import json
import sys
import time
from pathlib import Path

from caveat_client import Client
from caveat_client.api.audits import create_audit, get_audit, get_report, list_audits
from caveat_client.api.blobs import put_blob
from caveat_client.models import AuditInput, AuditPage, AuditRecord, Report
from caveat_client.types import File

url, folder = sys.argv[1], Path(sys.argv[2])
client = Client(url, raise_on_unexpected_status=True)
asked = (folder / "audit.json").read_text()
for path in sorted(folder.glob("*.onnx")) + sorted(folder.glob("*.npy")):
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    put_blob.sync(digest, client=client, body=File(io.BytesIO(path.read_bytes())))
    asked = asked.replace(f'"{path.name}"', f'"{digest}"')
record = create_audit.sync(client=client, body=AuditInput.from_dict(json.loads(asked)))
assert isinstance(record, AuditRecord), record
while record.state not in ("succeeded", "failed"):
    time.sleep(0.2)
    record = get_audit.sync(record.id, client=client)
    assert isinstance(record, AuditRecord), record
page = list_audits.sync(client=client)
assert isinstance(page, AuditPage)
assert record.id in [one.id for one in page.audits]
report = get_report.sync(record.id, client=client)
assert isinstance(report, Report), report
print(report.verdict.outcome, report.tests[0].effect.in_sd)
