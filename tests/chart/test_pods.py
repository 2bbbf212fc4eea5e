"""Properties of every pod, whatever the values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from caveat.commands.gate import gate
from caveat_service.settings import Settings as ServiceSettings
from caveat_worker.jobs.settings import Settings as WorkerSettings
from tests.chart.conftest import Pod, Release

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


def faults(of: type[BaseSettings], variables: Mapping[str, str]) -> list[str]:
    """The validation errors of settings read from variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
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
    """The variables of a pod; None for a value from a Secret."""
    variables: dict[str, str | None] = {}
    for source in pod.container.get("envFrom", []):
        (config,) = [
            one for one in release.of("ConfigMap") if one["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        variables |= config["data"]
    return variables | {variable["name"]: variable.get("value") for variable in pod.container.get("env", [])}


def workers(release: Release) -> list[Pod]:
    return [pod for pod in release.pods() if pod.labels.get("caveat/role") == "worker"]


def test_is_restricted(release: Release) -> None:
    """All rules of the Pod Security Standard "restricted", version 1.34."""
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
        "migration": settings(ServiceSettings) | {"CAVEAT_API_DATABASE_URL", "CAVEAT_WORKER_DATABASE_URL"},
        "test": command,
    }
    for pod in release.pods():
        part = pod.labels["app.kubernetes.io/component"]
        variables = {name for name in environment(release, pod) if name not in OTHERS_READ}
        assert variables <= known.get(part, settings(WorkerSettings)), pod


def test_is_told_settings_that_are_valid(release: Release) -> None:
    for pod in release.pods():
        part = pod.labels["app.kubernetes.io/component"]
        variables = {
            name: value or "from-a-secret-of-32-characters-or-more" for name, value in environment(release, pod).items()
        }
        assert part != "api" or faults(ServiceSettings, variables) == []
        assert not part.startswith("worker") or faults(WorkerSettings, variables) == []


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


ROLES: dict[str, dict[str, tuple[str, str]]] = {
    "default": {
        "api": ("rel-caveat-trial-api", "database-url"),
        "worker": ("rel-caveat-trial-worker", "database-url"),
        "migration": ("rel-caveat-trial", "database-url"),
    },
    "production": {
        "api": ("caveat-database-api", "database-url"),
        "worker": ("caveat-database-worker", "database-url"),
        "migration": ("caveat-places", "database-url"),
    },
    "everything": {
        "api": ("api-places", "database-url"),
        "worker": ("worker-places", "url"),
        "migration": ("places", "database-url"),
    },
    "external": dict.fromkeys(["api", "worker", "migration"], ("places", "database")),
    "minimal": dict.fromkeys(["api", "worker"], ("rel-caveat-trial", "database-url")),
}
"""Who connects to the database with which Secret; releases that are not named are as by default."""


def test_each_part_has_the_secret_of_its_role_and_no_other(release: Release) -> None:
    found: dict[str, tuple[str, str]] = {}
    for pod in release.pods():
        part = pod.labels["app.kubernetes.io/component"].partition("-")[0]
        for variable in pod.container.get("env", []):
            if variable["name"] == "CAVEAT_DATABASE_URL":
                reference = variable["valueFrom"]["secretKeyRef"]
                assert found.setdefault(part, (reference["name"], reference["key"])) == tuple(reference.values()), pod
            elif variable["name"].endswith("_DATABASE_URL"):
                assert part == "migration", f"{pod} is given {variable['name']}"
    assert found == ROLES.get(release.name, ROLES["default"])


def test_the_migration_makes_the_roles_of_the_included_database_only(release: Release) -> None:
    for pod in release.pods():
        if pod.labels["app.kubernetes.io/component"] == "migration":
            given = {
                variable["name"]: variable["valueFrom"]["secretKeyRef"]["name"] for variable in pod.container["env"]
            }
            brought = bool([one for one in release.of("StatefulSet") if one["metadata"]["name"].endswith("postgresql")])
            assert ("CAVEAT_API_DATABASE_URL" in given) == ("CAVEAT_WORKER_DATABASE_URL" in given) == brought
            assert len(set(given.values())) == len(given), "two roles share a Secret"
            assert ("helm.sh/hook" in pod.owner["metadata"].get("annotations", {})) != brought


def test_no_two_secrets_of_a_trial_hold_one_password(release: Release) -> None:
    passwords = [
        value for secret in release.of("Secret") for name, value in secret["stringData"].items() if "password" in name
    ]
    assert len(set(passwords)) == len(passwords)
    roles = [url for secret in release.of("Secret") if (url := secret["stringData"].get("database-url"))]
    assert len({url.partition("://")[2].partition(":")[0] for url in roles}) == len(roles)


def test_a_worker_fits_its_limits(release: Release) -> None:
    """The jobs of a pod may use less than the pod itself, or the kernel would kill them first."""
    for pod in workers(release):
        variables, limits = environment(release, pod), pod.container["resources"]["limits"]
        jobs = int(variables["CAVEAT_CONCURRENCY"] or 0)
        assert jobs * int(variables["CAVEAT_THREADS"] or 0) <= int(limits["cpu"]), pod
        assert jobs * int(variables["CAVEAT_MEMORY_BYTES"] or 0) < bytes_of(limits["memory"]), pod


def test_a_worker_has_time_to_leave(release: Release) -> None:
    """A worker continues for its grace period, then gives its jobs back; SIGKILL must come later."""
    for pod in workers(release):
        grace = float(environment(release, pod)["CAVEAT_GRACE_SECONDS"] or 0)
        assert pod.spec["terminationGracePeriodSeconds"] >= grace + 20, pod


def test_the_api_has_time_to_leave(release: Release) -> None:
    """The pause before SIGTERM (5 s) and gunicorn's time to finish requests (10 s)."""
    (pod,) = [pod for pod in release.pods() if pod.labels["app.kubernetes.io/component"] == "api"]
    assert pod.container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert pod.spec["terminationGracePeriodSeconds"] >= 20


def test_a_worker_is_dead_later_than_its_lease(release: Release) -> None:
    """A new worker starts only after the old one can no longer hold jobs."""
    for pod in workers(release):
        lease = float(environment(release, pod).get("CAVEAT_LEASE_SECONDS") or 30)
        minutes = int(pod.container["livenessProbe"]["exec"]["command"][-1].partition("-mmin -")[2].split()[0])
        assert minutes * 60 > lease, pod
