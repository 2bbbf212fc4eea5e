"""An audit with the models of datamodel-code-generator: URL, folder of an audit → the report's outcome."""

import hashlib
import sys
import time
from pathlib import Path

import httpx
from caveat_models import AuditInput, AuditPage, AuditRecord, Report

url, folder = sys.argv[1], Path(sys.argv[2])
asked = (folder / "audit.json").read_text()
with httpx.Client(base_url=url) as client:
    for path in sorted(folder.glob("*.onnx")) + sorted(folder.glob("*.npy")):
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        client.put(f"/v1/blobs/{digest}", content=path.read_bytes()).raise_for_status()
        asked = asked.replace(f'"{path.name}"', f'"{digest}"')
    audit = AuditInput.model_validate_json(asked)
    answer = client.post("/v1/audits", json=audit.model_dump(mode="json", exclude_unset=True, by_alias=True))
    record = AuditRecord.model_validate_json(answer.raise_for_status().content)
    while record.state.value not in ("succeeded", "failed"):
        time.sleep(0.2)
        record = AuditRecord.model_validate_json(client.get(f"/v1/audits/{record.id}").content)
    assert AuditPage.model_validate_json(client.get("/v1/audits").content).audits
    report = Report.model_validate_json(client.get(f"/v1/audits/{record.id}/report").content)
print(report.verdict.outcome.value, report.tests[0].effect.in_sd)
