// An audit by openapi-fetch with the types of openapi-typescript: URL, folder of an audit → the report's outcome.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

const [url, folder] = process.argv.slice(2) as [string, string];
const client = createClient<paths>({ baseUrl: url });
let asked = readFileSync(join(folder, "audit.json"), "utf8");
for (const name of readdirSync(folder).filter((one) => /\.(onnx|npy)$/.test(one)).sort()) {
  const bytes = readFileSync(join(folder, name));
  const digest = `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
  const { error } = await client.PUT("/v1/blobs/{digest}", {
    params: { path: { digest } },
    body: bytes as unknown as string,
    bodySerializer: (body) => body as unknown as BodyInit,
    headers: { "Content-Type": "application/octet-stream" },
  });
  if (error) throw new Error(error.detail);
  asked = asked.replaceAll(`"${name}"`, `"${digest}"`);
}
const audit: components["schemas"]["Audit-Input"] = JSON.parse(asked);
const created = await client.POST("/v1/audits", { body: audit });
if (!created.data) throw new Error(created.error.detail);
let record: components["schemas"]["AuditRecord"] = created.data;
while (record.state !== "succeeded" && record.state !== "failed") {
  await new Promise((wake) => setTimeout(wake, 200));
  const params = { path: { job_id: record.id } };
  const again = await client.GET("/v1/audits/{job_id}", { params });
  if (!again.data) throw new Error(again.error?.detail);
  record = again.data;
}
const { data: report } = await client.GET("/v1/audits/{job_id}/report", { params: { path: { job_id: record.id } } });
if (!report || typeof report === "string") throw new Error("no report");
console.log(report.verdict.outcome, report.tests[0]!.effect.in_sd);
