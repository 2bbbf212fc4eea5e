"""What holds for every pod, whatever the values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from caveat.cli import gate
from service.settings import Settings as ServiceSettings
from tests.chart.conftest import Pod, Release
from worker.settings import Settings as WorkerSettings

pytestmark = pytest.mark.slow

ENDS_BY_ITSELF = {"Job", "Pod"}

OTHERS_READ = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION",  # botocore
    "PGDATA", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_USER",  # the image of PostgreSQL
    "VALKEY_PASSWORD",  # the command beside it
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",  # OpenTelemetry
}  # fmt: skip


def settings(*of: type) -> set[str]:
    return {f"CAVEAT_{name.upper()}" for settings in of for name in settings.model_fields}  # type: ignore[attr-defined]


def faults(of: type[BaseSettings], told: Mapping[str, str]) -> list[str]:
    """What settings have against variables that they are told."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        try:
            of()
        except ValidationError as refused:
            return [str(fault) for fault in refused.errors()]
    return []


def bytes_of(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)?", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {None: 0, "Ki": 10, "Mi": 20, "Gi": 30}[unit]


def environment(release: Release, pod: Pod) -> dict[str, str | None]:
    """Every variable of a pod; None where a Secret has its value."""
    told: dict[str, str | None] = {}
    for source in pod.container.get("envFrom", []):
        (config,) = [
            one for one in release.of("ConfigMap") if one["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        told |= config["data"]
    return told | {variable["name"]: variable.get("value") for variable in pod.container.get("env", [])}


def workers(release: Release) -> list[Pod]:
    return [pod for pod in release.pods() if pod.labels.get("caveat/role") == "worker"]


def test_is_restricted(release: Release) -> None:
    """Pod Security Standard "restricted", version 1.34, in full."""
    for pod in release.pods():
        spec, container = pod.spec, pod.container
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys(), pod
        assert spec["securityContext"]["runAsNonRoot"] is True, pod
        assert spec["securityContext"]["runAsUser"] > 0, pod
        assert spec["securityContext"]["seccompProfile"]["type"] in {"RuntimeDefault", "Localhost"}, pod
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, pod
        assert not any("hostPort" in port for port in container.get("ports", [])), pod
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}, pod


def test_has_no_way_to_kubernetes(release: Release) -> None:
    accounts = {account["metadata"]["name"]: account for account in release.of("ServiceAccount")}
    for pod in release.pods():
        assert pod.spec["automountServiceAccountToken"] is False, pod
        assert accounts[pod.spec["serviceAccountName"]]["automountServiceAccountToken"] is False, pod
    assert not release.of("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_is_told_nothing_by_kubernetes(release: Release) -> None:
    """A Service called "caveat" would set CAVEAT_PORT=tcp://..., and the API would not start."""
    for pod in release.pods():
        assert pod.spec["enableServiceLinks"] is False, pod


def test_has_limits(release: Release) -> None:
    for pod in release.pods():
        resources = pod.container["resources"]
        for amounts in (resources["requests"], resources["limits"]):
            assert {"cpu", "memory", "ephemeral-storage"} <= amounts.keys(), pod


def test_has_probes(release: Release) -> None:
    for pod in release.pods():
        if pod.owner["kind"] not in ENDS_BY_ITSELF:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= pod.container.keys(), pod
        else:
            assert "activeDeadlineSeconds" in pod.owner["spec"], pod


def test_has_a_scratch_with_a_limit(release: Release) -> None:
    for pod in release.pods():
        assert any(mount["mountPath"] == "/tmp" for mount in pod.container["volumeMounts"]), pod
        for volume in pod.spec["volumes"]:
            if "emptyDir" in volume:
                size = bytes_of(volume["emptyDir"]["sizeLimit"])
                assert size <= bytes_of(pod.container["resources"]["limits"]["ephemeral-storage"]), pod


def test_mounts_what_is_there(release: Release) -> None:
    for pod in release.pods():
        templates = pod.owner["spec"].get("volumeClaimTemplates", [])
        there = {volume["name"] for volume in pod.spec.get("volumes", [])} | {
            one["metadata"]["name"] for one in templates
        }
        assert {mount["name"] for mount in pod.container["volumeMounts"]} <= there, pod


def test_is_told_settings_that_exist(release: Release) -> None:
    command = {variable for option in gate.params for variable in [option.envvar] if isinstance(variable, str)}
    known = {
        "api": settings(ServiceSettings),
        "migration": settings(ServiceSettings),
        "test": command,
    }
    for pod in release.pods():
        part = pod.labels["app.kubernetes.io/component"]
        told = {name for name in environment(release, pod) if name not in OTHERS_READ}
        assert told <= known.get(part, settings(WorkerSettings)), pod


def test_is_told_settings_that_are_valid(release: Release) -> None:
    for pod in release.pods():
        part = pod.labels["app.kubernetes.io/component"]
        told = {name: value or "from-a-secret" for name, value in environment(release, pod).items()}
        assert part != "api" or faults(ServiceSettings, told) == []
        assert not part.startswith("worker") or faults(WorkerSettings, told) == []


def test_no_secret_is_in_a_config_map(release: Release) -> None:
    for config in release.of("ConfigMap"):
        for name, value in config.get("data", {}).items():
            named = re.search(r"PASSWORD|SECRET|_KEY|DATABASE_URL|BROKER_URL", name)
            assert not named or value.startswith("/"), f"{name} is neither secret nor a place where one is mounted"
            assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", value), name


def test_no_pod_holds_a_secret_in_its_manifest(release: Release) -> None:
    for pod in release.pods():
        for variable in pod.container.get("env", []):
            if re.search(r"PASSWORD|SECRET|_KEY|DATABASE_URL|BROKER_URL", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], f"{pod}: {variable['name']}"


def test_a_worker_fits_its_limits(release: Release) -> None:
    """What the jobs of a pod may use is less than what the pod may use, or the kernel would end them first."""
    for pod in workers(release):
        told, limits = environment(release, pod), pod.container["resources"]["limits"]
        jobs = int(told["CAVEAT_CONCURRENCY"] or 0)
        assert jobs * int(told["CAVEAT_THREADS"] or 0) <= int(limits["cpu"]), pod
        assert jobs * int(told["CAVEAT_MEMORY_BYTES"] or 0) < bytes_of(limits["memory"]), pod


def test_a_worker_has_time_to_leave(release: Release) -> None:
    """It works on for its grace, then asks its jobs back; the kernel's SIGKILL must come later than that."""
    for pod in workers(release):
        grace = float(environment(release, pod)["CAVEAT_GRACE_SECONDS"] or 0)
        assert pod.spec["terminationGracePeriodSeconds"] >= grace + 20, pod


def test_the_api_has_time_to_leave(release: Release) -> None:
    """The pause before SIGTERM (5 s) and gunicorn's time to finish requests (10 s)."""
    (pod,) = [pod for pod in release.pods() if pod.labels["app.kubernetes.io/component"] == "api"]
    assert pod.container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert pod.spec["terminationGracePeriodSeconds"] >= 20


def test_a_worker_is_dead_later_than_its_lease(release: Release) -> None:
    """Nobody restarts a worker whose job nobody else may have yet."""
    for pod in workers(release):
        lease = float(environment(release, pod).get("CAVEAT_LEASE_SECONDS") or 30)
        minutes = int(pod.container["livenessProbe"]["exec"]["command"][-1].partition("-mmin -")[2].split()[0])
        assert minutes * 60 > lease, pod
