// An audit by the client of @hey-api/openapi-ts: URL, folder of an audit → the report's outcome.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { client } from "./hey/client.gen.js";
import { createAudit, getAudit, getReport, putBlob } from "./hey/sdk.gen.js";
import type { AuditInput, Report } from "./hey/types.gen.js";

const [url, folder] = process.argv.slice(2) as [string, string];
client.setConfig({ baseUrl: url, throwOnError: true });
let asked = readFileSync(join(folder, "audit.json"), "utf8");
for (const name of readdirSync(folder).filter((one) => /\.(onnx|npy)$/.test(one)).sort()) {
  const bytes = readFileSync(join(folder, name));
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  await putBlob({ path: { digest }, body: new File([bytes], name) });
  asked = asked.replaceAll(`"${name}"`, `"${digest}"`);
}
const audit: AuditInput = JSON.parse(asked);
let record = (await createAudit({ body: audit, throwOnError: true })).data;
while (record.state !== "succeeded" && record.state !== "failed") {
  await new Promise((wake) => setTimeout(wake, 200));
  record = (await getAudit({ path: { job_id: record.id }, throwOnError: true })).data;
}
const report = (await getReport({ path: { job_id: record.id }, throwOnError: true })).data as Report;
console.log(report.verdict.outcome, report.tests[0]!.effect.in_sd);
