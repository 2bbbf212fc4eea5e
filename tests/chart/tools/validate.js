// Validates custom resources, a JSON array on standard input, against the schemas that their projects publish.
// Prints one line for each fault, and counts what it looked at on the last line.
import * as gateway from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as prometheus from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { readFileSync } from "node:fs";

const published = {
  "gateway.networking.k8s.io/v1": gateway,
  "keda.sh/v1alpha1": keda,
  "monitoring.coreos.com/v1": prometheus,
};

let faults = 0;
const resources = JSON.parse(readFileSync(0, "utf8"));
for (const resource of resources) {
  const Model = published[resource.apiVersion]?.[resource.kind];
  try {
    if (!Model) throw new Error("no published schema is known");
    new Model(resource).validate();
  } catch (fault) {
    faults += 1;
    console.log(`${resource.kind} ${resource.metadata.name}: ${fault.message}`);
  }
}
console.log(`${resources.length} resources, ${faults} faults`);
process.exit(faults ? 1 : 0);
