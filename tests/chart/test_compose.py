"""The compose file uses the chart's images, confines them as much, and sets only existing settings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic_settings import BaseSettings
from ruamel.yaml import YAML

from caveat_service.settings import Settings as ServiceSettings
from caveat_worker.jobs.settings import Settings as WorkerSettings
from tests.chart.conftest import ROOT
from tests.chart.test_pods import OTHERS_READ, faults, settings

pytestmark = pytest.mark.slow

OURS: dict[str, type[BaseSettings]] = {"api": ServiceSettings, "worker": WorkerSettings}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "docker-compose.yaml")["services"]
    return found


def test_ours_are_confined_and_told_settings_that_exist(services: dict[str, dict[str, Any]]) -> None:
    for name, of in OURS.items():
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["environment"].keys() - OTHERS_READ <= settings(of)
        assert f"AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()


def test_each_part_has_a_role_of_its_own_and_only_the_migration_has_all(services: dict[str, dict[str, Any]]) -> None:
    urls = {
        name: {key: url for key, url in service.get("environment", {}).items() if key.endswith("DATABASE_URL")}
        for name, service in services.items()
    }
    made, api, worker = (urls[name] for name in ("migration", "api", "worker"))
    assert made.keys() == {"CAVEAT_DATABASE_URL", "CAVEAT_API_DATABASE_URL", "CAVEAT_WORKER_DATABASE_URL"}
    assert list(api.values()) == [made["CAVEAT_API_DATABASE_URL"]]
    assert list(worker.values()) == [made["CAVEAT_WORKER_DATABASE_URL"]]
    assert len(set(made.values())) == 3
    assert {password for url in made.values() for password in re.findall(r"\$\{(\w+):", url)} == {
        "POSTGRES_PASSWORD", "API_PASSWORD", "WORKER_PASSWORD"
    }  # fmt: skip
    for name in ("api", "worker"):
        assert services[name]["depends_on"]["migration"] == {"condition": "service_completed_successfully"}
    assert services["migration"]["cap_drop"] == ["ALL"]


def test_every_settings_value_is_valid(services: dict[str, dict[str, Any]]) -> None:
    for name, of in OURS.items():
        variables = {variable: str(value) for variable, value in services[name]["environment"].items()}
        assert faults(of, variables) == []


def test_only_the_api_is_reached_and_only_from_here(services: dict[str, dict[str, Any]]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api": ["127.0.0.1:8000:8000"]
    }
    assert all(service["networks"] == ["inside"] for name, service in services.items() if name != "api")


def test_everything_has_a_limit_and_no_password_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert "mem_limit" in service, name
        for variable, value in service.get("environment", {}).items():
            if "PASSWORD" in variable or "SECRET" in variable:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?in \.env\}", value), f"{name}: {variable}"


def test_a_worker_has_the_memory_and_the_time_that_it_needs(services: dict[str, dict[str, Any]]) -> None:
    variables, worker = services["worker"]["environment"], services["worker"]
    assert (
        int(worker["mem_limit"].removesuffix("m")) << 20
        > variables["CAVEAT_CONCURRENCY"] * variables["CAVEAT_MEMORY_BYTES"]
    )
    assert int(worker["stop_grace_period"].removesuffix("s")) >= variables["CAVEAT_GRACE_SECONDS"] + 20
