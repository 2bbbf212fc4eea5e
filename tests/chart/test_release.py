"""Relations between the parts of a release."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from caveat_spec.jobs import LISTS, QUEUES, in_flight
from tests.chart.conftest import CHART, ROOT, VALUES, Manifest, Pod, Release, helm, render

pytestmark = pytest.mark.slow


def selects(selector: dict[str, Any], pod: Pod) -> bool:
    """Whether a label selector matches a pod."""
    words: Any = {"In": lambda value, values: value in values, "NotIn": lambda value, values: value not in values}
    wanted = selector.get("matchLabels", {}).items() <= pod.labels.items()
    return wanted and all(
        words[said["operator"]](pod.labels.get(said["key"]), said["values"])
        for said in selector.get("matchExpressions", [])
    )


def named(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def test_every_service_selects_a_pod_with_its_ports(release: Release) -> None:
    for service in release.of("Service"):
        found = [pod for pod in release.pods() if selects({"matchLabels": service["spec"]["selector"]}, pod)]
        assert len(found) == 1, named(service)
        there = {port["name"] for port in found[0].container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= there, named(service)


def test_metrics_are_never_published(release: Release) -> None:
    for service in release.of("Service"):
        if "metrics" in {port["name"] for port in service["spec"]["ports"]}:
            assert service["spec"]["clusterIP"] == "None", named(service)
            assert len(service["spec"]["ports"]) == 1, named(service)
    for monitor in release.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        ports = {port["name"] for one in release.of("Service") if wanted <= one["metadata"]["labels"].items()
                 for port in one["spec"]["ports"]}  # fmt: skip
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


def test_every_selector_selects_what_it_is_about(release: Release) -> None:
    for workload in release.of("Deployment", "StatefulSet"):
        selected = [pod for pod in release.pods() if selects(workload["spec"]["selector"], pod)]
        assert [pod.owner for pod in selected] == [workload], named(workload)
    for budget in release.of("PodDisruptionBudget"):
        assert len([pod for pod in release.pods() if selects(budget["spec"]["selector"], pod)]) == 1, named(budget)
    for policy in release.of("NetworkPolicy"):
        assert any(selects(policy["spec"]["podSelector"], pod) for pod in release.pods()), named(policy)


def test_every_pod_has_a_network_policy_that_denies(release: Release) -> None:
    if release.name == "minimal":
        assert not release.of("NetworkPolicy")
        return
    for pod in release.pods():
        mine = [policy for policy in release.of("NetworkPolicy") if selects(policy["spec"]["podSelector"], pod)]
        assert mine, pod
        for policy in mine:
            assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}, pod
            assert all(rule.get("to") for rule in policy["spec"]["egress"]), f"{named(policy)} lets {pod} go anywhere"


def test_only_workers_send_webhooks_and_only_where_somebody_said_so(release: Release) -> None:
    open_to = {
        named(policy)
        for policy in release.of("NetworkPolicy")
        for rule in policy["spec"]["egress"]
        if "100.64.0.0/10" in str(rule["to"])
    }
    assert {name.rpartition("-")[2] for name in open_to} == ({"worker"} if release.name == "everything" else set())


def test_traces_have_a_way_to_their_collector(release: Release) -> None:
    variables = {
        name for config in release.of("ConfigMap") for name in config.get("data", {}) if name.startswith("OTEL_")
    }
    ways = [
        named(policy).rpartition("-")[2]
        for policy in release.of("NetworkPolicy")
        for rule in policy["spec"]["egress"]
        if {"port": 4318} in rule.get("ports", [])
    ]
    assert bool(variables) == bool(ways) == (release.name == "everything")
    assert not ways or sorted(ways) == ["api", "worker"]


def test_nobody_asks_a_worker(release: Release) -> None:
    for policy in release.of("NetworkPolicy"):
        if named(policy).endswith("-worker"):
            assert policy["spec"]["ingress"] == []


def test_everything_has_its_labels(release: Release) -> None:
    wanted = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "helm.sh/chart"}
    for manifest in release.manifests:
        assert wanted <= manifest["metadata"]["labels"].keys(), named(manifest)
        assert manifest["metadata"]["namespace"] == "audits", named(manifest)


def test_names_are_unique_and_short(release: Release) -> None:
    names = [(manifest["kind"], named(manifest)) for manifest in release.manifests]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_every_config_map_is_somebodys(release: Release) -> None:
    used = {
        *(source["configMapRef"]["name"] for pod in release.pods() for source in pod.container.get("envFrom", [])),
        *(
            volume["configMap"]["name"]
            for pod in release.pods()
            for volume in pod.spec["volumes"]
            if "configMap" in volume
        ),
    }
    made = {named(config) for config in release.of("ConfigMap") if not named(config).endswith("-dashboard")}
    assert used == made


def test_every_key_of_the_trial_secret_is_there(release: Release) -> None:
    made = {named(secret): secret["stringData"].keys() for secret in release.of("Secret")}
    for pod in release.pods():
        for variable in pod.container.get("env", []):
            wanted = variable.get("valueFrom", {}).get("secretKeyRef")
            if wanted and wanted["name"] in made:
                assert wanted["key"] in made[wanted["name"]], f"{pod}: {variable['name']}"


def test_a_changed_setting_rolls_its_pods(release: Release) -> None:
    """A checksum in the pods, which must not depend on the password that each rendering generates anew."""
    again = helm("template", "rel", str(CHART), "--namespace", "audits", "--kube-version", "1.34.0",
                 *(argument for path in VALUES[release.name] for argument in ("--values", str(path))))  # fmt: skip
    assert [line for line in again.stdout.splitlines() if "checksum/" in line] == [
        line for line in release.text.splitlines() if "checksum/" in line
    ]
    assert release.text.count("checksum/settings") == len(release.of("Deployment"))


def served(release: Release) -> dict[str, list[str]]:
    """The queues that each pool serves."""
    return {
        named(config).partition("-worker-")[2]: config["data"]["CAVEAT_QUEUES"].split(",")
        for config in release.of("ConfigMap")
        if "-worker-" in named(config)
    }


SERVED = {
    "default": {"cpu": ["default", "gpu", "large"]},
    "gpu": {"gpu": ["default", "gpu", "large"]},  # the only pool
    "pools": {"cpu": ["default"], "gpu": ["gpu"], "large": ["large"]},
    "everything": {"cpu": ["default"], "gpu": ["gpu"], "large": ["default", "large"]},
}


@pytest.mark.parametrize("name", SERVED)
def test_pools_divide_the_queues(name: str) -> None:
    assert served(render(name)) == SERVED[name]


def test_every_queue_is_served(release: Release) -> None:
    assert {queue for queues in served(release).values() for queue in queues} == set(QUEUES)


def test_keda_counts_what_is_queued_and_in_flight() -> None:
    counted = 0
    for name in ("keda", "pools", "everything", "production"):
        release = render(name)
        for scaled in release.of("ScaledObject"):
            spec = scaled["spec"]
            queues = served(release)[named(scaled).partition("-worker-")[2]]
            metrics = {trigger["name"]: trigger["metadata"]["listName"] for trigger in spec["triggers"]}
            # kombu's names: a list of queued messages, and a hash of messages that were taken (HLEN).
            assert metrics == {f"queued_{queue}": LISTS[queue] for queue in queues} | {"in_flight": in_flight(queues)}
            assert set(spec["advanced"]["scalingModifiers"]["formula"].split(" + ")) == metrics.keys()
            (auth,) = release.of("TriggerAuthentication")
            assert all(trigger["authenticationRef"]["name"] == named(auth) for trigger in spec["triggers"])
            assert spec["minReplicaCount"] >= ("default" in queues), "a running worker has to publish waiting jobs"
            (deployment,) = [one for one in release.of("Deployment") if named(one) == spec["scaleTargetRef"]["name"]]
            assert "replicas" not in deployment["spec"], "Helm and KEDA would both set the number of replicas"
            counted += 1
    assert counted == 6


def test_the_api_is_scaled_by_one() -> None:
    assert "replicas" in render("default").one("Deployment", "api")["spec"]
    assert "replicas" not in render("everything").one("Deployment", "api")["spec"]


def test_a_migration_that_changes_is_another_job_where_revisions_are_not_counted() -> None:
    """`helm template` renders each as the first revision, and Kubernetes refuses to change a Job."""
    assert _migration("default", "images.tag=9.9.9") == _migration("default", "images.tag=9.9.9")
    assert _migration("default", "images.tag=9.9.9") != _migration("default")


def _migration(values: str, *changed: str) -> str:
    """Name of the Job beside the release, without that of the release."""
    (job,) = [one for one in render(values, *changed).of("Job") if "migration" in named(one)]
    found = re.search(r"migration-1-[0-9a-f]{8}$", named(job))
    assert found is not None
    return found[0]


def test_the_migration_comes_before_the_release_where_it_can() -> None:
    """The included database does not exist before the release, so a Job of each revision runs beside it."""
    beside = render("default").one("Job", _migration("default"))["metadata"]
    assert "annotations" not in beside, "a hook after the installation would wait for the API, which waits for it"
    before = render("external").one("Job", "migration")["metadata"]["annotations"]
    assert before["helm.sh/hook"] == "pre-install,pre-upgrade"
    first = [
        manifest
        for manifest in render("external").of("ServiceAccount", "NetworkPolicy", "Job")
        if named(manifest).endswith("-migration")
    ]
    weights = {one["kind"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"]) for one in first}
    assert weights["ServiceAccount"] < weights["Job"] > weights["NetworkPolicy"]


def test_a_volume_of_one_node_keeps_its_pods_together() -> None:
    def stays(name: str) -> bool:
        return "podAffinity" in render(name).one("Deployment", "api")["spec"]["template"]["spec"].get("affinity", {})

    assert stays("default")
    assert not stays("external"), "ReadWriteMany"
    assert not stays("production"), "a bucket"


def test_gpus_are_asked_for() -> None:
    release = render("gpu")
    (worker,) = [one for one in release.of("Deployment") if "-worker-" in named(one)]
    pod = worker["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "caveat-worker-gpu:" in pod["containers"][0]["image"]
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert worker["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_pool_may_say_otherwise_than_all() -> None:
    release = render("everything")
    config = {name: release.one("ConfigMap", f"worker-{name}")["data"] for name in ("cpu", "gpu", "large")}
    assert {name: data["CAVEAT_GRACE_SECONDS"] for name, data in config.items()} == {
        "cpu": "20",
        "gpu": "40",
        "large": "40",
    }
    assert {data["CAVEAT_WALL_SECONDS"] for data in config.values()} == {"3600"}
    assert {data["CAVEAT_LEASE_SECONDS"] for data in config.values()} == {"45.5"}


def test_large_numbers_are_written_out() -> None:
    assert render("everything").one("ConfigMap", "api")["data"]["CAVEAT_LARGEST_BLOB"] == "8589934592"


def test_the_small_audit_is_the_one_in_the_chart() -> None:
    mounted = render("default").one("ConfigMap", "test")["binaryData"]
    assert mounted.keys() == {path.name for path in (CHART / "files" / "audit").iterdir()}


def test_every_alert_has_a_runbook_and_asks_for_metrics_that_exist() -> None:
    alerts = YAML(typ="safe").load(CHART / "files" / "alerts.yaml")
    runbooks = (ROOT / "docs" / "operations.md").read_text()
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    asked = [alert["expr"] for alert in alerts] + [
        target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
    ]
    for alert in alerts:
        assert f"\n#### {alert['alert']}\n" in runbooks, f"docs/operations.md has no runbook for {alert['alert']}"
    for expression in asked:
        words = set(re.split(r"[\s(){}\[]", expression))
        names = {word for word in words if word.startswith("caveat_")}
        described = {name for name in names if f"`{name.removesuffix('_bucket')}" in runbooks}
        assert names == described  # tests/service/test_metrics.py compares the page with the served metrics
        assert names, expression
