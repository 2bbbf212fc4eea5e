"""Webhooks as a client sees them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from caveat_service.state import AppContext
from caveat_storage import webhooks

URL = "https://hooks.example.org/caveat"


def test_are_registered_shown_and_forgotten(client: FlaskClient) -> None:
    made = client.post("/v1/webhooks", json={"url": URL, "events": ["audit.failed"]})
    assert made.status_code == 201
    place = made.headers["Location"]
    assert made.json["secret"].startswith("whsec_")
    shown = client.get(place)
    assert shown.json == {key: value for key, value in made.json.items() if key != "secret"}
    assert (shown.json["url"], shown.json["events"], shown.json["disabled_at"]) == (URL, ["audit.failed"], None)
    assert client.get("/v1/webhooks").json == {"webhooks": [shown.json]}
    assert client.delete(place).status_code == 204
    assert {client.open(place, method=method).status_code for method in ("GET", "DELETE")} == {404}
    assert client.get("/v1/webhooks").json == {"webhooks": []}


def test_a_secret_is_shown_when_it_is_made_and_never_again(client: FlaskClient) -> None:
    made = client.post("/v1/webhooks", json={"url": URL})
    place = made.headers["Location"]
    rotated = client.post(f"{place}:rotate").json
    assert rotated["secret"] != made.json["secret"]
    for path in (place, "/v1/webhooks", f"{place}/deliveries"):
        assert "whsec_" not in client.get(path).text


def test_who_changes_one_is_in_the_log(client: FlaskClient) -> None:
    made = client.post("/v1/webhooks", json={"url": URL})
    place = made.headers["Location"]
    for method, path in (("POST", f"{place}:rotate"), ("POST", f"{place}:enable"), ("DELETE", place)):
        assert client.open(path, method=method).status_code < 300
    log = client.get("/v1/audit-log").text
    assert [json.loads(line)["what"] for line in log.splitlines()] == [
        "create_webhook", "rotate_webhook", "enable_webhook", "delete_webhook",
    ]  # fmt: skip
    assert {json.loads(line)["payload"]["by"] for line in log.splitlines()} == {"anonymous"}
    assert "whsec_" not in log


def test_a_test_is_among_the_deliveries(client: FlaskClient) -> None:
    place = client.post("/v1/webhooks", json={"url": URL}).headers["Location"]
    assert client.post(f"{place}:test").status_code == 202
    assert client.post(f"{place}:enable").status_code == 200
    (delivery,) = client.get(f"{place}/deliveries?limit=1").json["deliveries"]
    assert (delivery["type"], delivery["state"], delivery["audit"], delivery["answer"]) == (
        "webhook.test",
        "pending",
        None,
        None,
    )
    absent = place[:-1] + ("0" if place[-1] != "0" else "1")
    for action in (":test", ":enable", ":rotate"):
        assert client.post(absent + action).status_code == 404
    assert client.get(f"{absent}/deliveries").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"url": "ftp://example.org/"},
        {"url": "https://user:password@example.org/"},
        {"url": "https://example.org/#there"},
        {"url": "https://example.org/ a"},
        {"url": "https://"},
        {"url": "https://ex\u00e4mple.org/"},
        {"url": "http://example.org/"},
        {"url": "https://127.0.0.1/"},
        {"url": "https://[fd00::1]:8443/"},
        {"url": "https://169.254.169.254/latest/meta-data"},
        {"url": "https://example.org:99999/"},
        {"url": "https://[00]/"},
        {"url": URL, "events": []},
        {"url": URL, "events": ["audit.begun"]},
        {"url": URL, "secret": "mine"},
    ],
)
def test_what_cannot_be_told_is_refused_and_pointed_at(client: FlaskClient, body: dict[str, Any]) -> None:
    refused = client.post("/v1/webhooks", json=body)
    assert refused.status_code == 422
    (error, *_) = refused.json["errors"]
    assert error["pointer"].split("/")[1] in body


def test_an_operator_may_allow_private_places(app: Flask, client: FlaskClient) -> None:
    app_context: AppContext = app.extensions["caveat"]
    allowing = app_context.settings.model_copy(update={"webhook_networks": "10.0.0.0/8"})
    app.extensions["caveat"] = replace(app_context, settings=allowing)
    assert client.post("/v1/webhooks", json={"url": "http://10.1.2.3:8080/hook"}).status_code == 201
    assert client.post("/v1/webhooks", json={"url": "http://10.1.2.3.example/hook"}).status_code == 201
    assert client.post("/v1/webhooks", json={"url": "http://127.0.0.1/"}).status_code == 422


def test_there_are_so_many_and_no_more(client: FlaskClient) -> None:
    for _ in range(webhooks.MOST):
        assert client.post("/v1/webhooks", json={"url": URL}).status_code == 201
    full = client.post("/v1/webhooks", json={"url": URL})
    assert full.status_code == 409
    assert "Delete one" in full.json["remedy"]
