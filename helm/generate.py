"""Writes what can be read off something else: `python helm/generate.py`, or `--check` that nobody forgot to.

- `caveat/README.md`: every value of `values.yaml`, with its default and the comment above it
- `caveat/values.schema.json`: the settings of `service/settings.py` and `worker/settings.py` that a person may give
- `docs/operations.md`: a table of all of them
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from service.settings import Settings as ServiceSettings
from worker.settings import Settings as WorkerSettings

CHART = Path(__file__).parent / "caveat"
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"
PLACES = {"database_url", "blobs_url", "broker_url"}
CHOSEN_BY_THE_CHART = {
    "apiSettings": PLACES | {"host", "port", "metrics_port", "signing_key"},
    "workerSettings": PLACES
    | {
        "queues",
        "concurrency",
        "threads",
        "memory_bytes",
        "grace_seconds",
        "heartbeat_file",
        "cache_bytes",
        "cache_folder",
    },
}
"""Settings that follow from other values, so that nobody can contradict those."""

KEPT_OF_A_FIELD = {
    "type", "enum", "anyOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "default", "description",
}  # fmt: skip

INTRODUCTION = """# Caveat on Kubernetes

```sh
helm install caveat helm/caveat --namespace caveat --create-namespace --set images.registry=registry.example/team
helm test caveat --namespace caveat
```

As it is, the chart brings a small Valkey and a small PostgreSQL of its own, to try Caveat out. `values-production.yaml`
is a start for more; `docs/operations.md` has sizing, upgrades, backups, keys, and a runbook for each alert. Every pod
fits the Pod Security Standard "restricted". A value that does not exist is refused (`values.schema.json`).

## What the cluster needs

| for | there has to be |
| --- | --- |
| the chart as it is | Kubernetes 1.29, a default StorageClass, a network plugin that heeds NetworkPolicies |
| `api.autoscaling` | metrics-server |
| `autoscaling` of a pool of workers | KEDA, in the namespace that `networkPolicy.keda` names |
| `workers.gpu` | nodes with NVIDIA's driver, container toolkit and device plugin; often a `runtimeClassName` |
| `metrics.serviceMonitor`, `metrics.rules` | the Prometheus operator |
| `metrics.dashboard` | Grafana's sidecar for dashboards |
| `ingress`, `gateway` | a controller of Ingresses; the Gateway API and a controller of its routes |

## Pools and queues

Each pool of `workers` is a Deployment and serves queues: `gpu` has audits that ask for CUDA, `large` those of models
larger than `api.settings.CAVEAT_LARGE_MODEL`, `default` all others. As it is, one pool (`cpu`) serves all. With GPUs,
and a pool with more memory, each scaled by what waits for it:

```yaml
api: {settings: {CAVEAT_LARGE_MODEL: 2147483648}}
worker: {autoscaling: {enabled: true}}
workers:
  gpu: {enabled: true, autoscaling: {minReplicas: 0, maxReplicas: 2}}     # queues: [gpu]; none while nobody asks
  large: {queues: [large], jobMemoryMi: 65536, threads: 8}
```

Written by `helm/generate.py` from `values.yaml`; do not edit.
"""


def main(arguments: list[str]) -> int:
    """Writes the files, or names those that differ from what would be written."""
    written = {CHART / "README.md": readme(), CHART / "values.schema.json": schema(), OPERATIONS: operations()}
    stale = [path for path, text in written.items() if not path.exists() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(CHART.parents[1])} is out of date: run `python helm/generate.py`.")
        return 1 if stale else 0
    for path in stale:
        path.write_text(written[path])
    return 0


def schema() -> str:
    """The schema as it is, with the settings as they are now."""
    document = json.loads((CHART / "values.schema.json").read_text())
    document["definitions"]["apiSettings"] = _settings(ServiceSettings, CHOSEN_BY_THE_CHART["apiSettings"])
    document["definitions"]["workerSettings"] = _settings(WorkerSettings, CHOSEN_BY_THE_CHART["workerSettings"])
    return json.dumps(document, indent=2) + "\n"


def _settings(settings: type[BaseSettings], chosen: set[str]) -> dict[str, Any]:
    fields = settings.model_json_schema()["properties"]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            f"CAVEAT_{name.upper()}": {word: said for word, said in about.items() if word in KEPT_OF_A_FIELD}
            for name, about in sorted(fields.items())
            if name not in chosen
        },
    }


def operations() -> str:
    """The page as it is, with the settings as they are now."""
    about: dict[str, dict[str, Any]] = {}
    users: dict[str, list[str]] = {}
    both: dict[str, type[BaseSettings]] = {"API": ServiceSettings, "worker": WorkerSettings}
    for user, settings in both.items():
        for name, field in settings.model_json_schema()["properties"].items():
            about[name] = field
            users.setdefault(name, []).append(user)
    rows = [
        f"| `CAVEAT_{name.upper()}` | {', '.join(users[name])} | `{json.dumps(field.get('default'))}` "
        f"| {field['description']} |"
        for name, field in about.items()
    ]
    table = "\n".join(["| variable | for | default | |", "| --- | --- | --- | --- |", *rows])
    before, _, rest = OPERATIONS.read_text().partition("<!-- settings -->")
    _, _, after = rest.rpartition("<!-- /settings -->")
    return f"{before}<!-- settings -->\n\n{table}\n\n<!-- /settings -->{after}"


def readme() -> str:
    """A table for each part of the values."""
    text = (CHART / "values.yaml").read_text()
    values, comments = YAML().load(text), _comments(text)
    parts = [INTRODUCTION]
    general = [key for key, value in values.items() if not _branches(value)]
    parts.append(_table("General", "", [(key, values[key]) for key in general], comments))
    for key, value in values.items():
        if key not in general:
            parts.append(_table(key, comments.get(key, ""), list(_leaves(value, key)), comments))
    return "\n".join(parts)


def _table(title: str, about: str, leaves: list[tuple[str, Any]], comments: dict[str, str]) -> str:
    rows = [f"| `{path}` | `{json.dumps(value)}` | {comments.get(path, '')} |" for path, value in leaves]
    head = [f"## {title}", "", *([about, ""] if about else []), "| value | default | |", "| --- | --- | --- |"]
    return "\n".join([*head, *(row.replace("|  |", "| |") for row in rows)]) + "\n"


def _branches(value: Any) -> bool:
    """Whether a value is told part by part: a mapping written over several lines."""
    return isinstance(value, CommentedMap) and bool(value) and not value.fa.flow_style()


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not _branches(value):
        yield path, value
        return
    for key, part in value.items():
        yield from _leaves(part, f"{path}.{key}")


def _comments(text: str) -> dict[str, str]:
    """What the comment right above each key says, by the key's path."""
    found: dict[str, str] = {}
    path: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        if comment := re.fullmatch(r"\s*# ?(?:-- )?(.*)", line):
            said.append(comment[1])
        elif key := re.match(r"( *)([A-Za-z0-9]+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            found[".".join(path)] = " ".join(said)
            said = []
        else:
            said = []
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
