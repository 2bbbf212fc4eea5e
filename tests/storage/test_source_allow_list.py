"""Which URLs the service fetches: what begins with an allowed prefix, and nothing that could mean another place."""

from __future__ import annotations

import pytest

from caveat_storage.source_allow_list import fault, prefixes

ALLOWED = prefixes("https://models.example/onnx, https://files.example:8443/, s3://bucket/onnx/, hf://org/, gs://pail")


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example/onnx/a.onnx", "https://models.example/onnx", "https://MODELS.example:443/onnx/b/a.onnx",
        "https://models.example/onnx/a%20b.onnx", "https://files.example:8443/a.onnx", "s3://bucket/onnx/a.onnx",
        "hf://org/repository@main/a.onnx", "gs://pail/a.onnx", "https://models.example/onnx/a..b.onnx",
        "https://models.example/onnx/a;b.onnx", "https://models.example/onnx/..a/b.onnx",
    ],
)  # fmt: skip
def test_what_begins_with_a_prefix_is_fetched(url: str) -> None:
    assert fault(url, ALLOWED) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://models.example/onnx/a.onnx", "https://models.example/a.onnx", "https://models.example/onnx-other/a",
        "https://models.example.evil/onnx/a", "https://evil.example/onnx/a", "https://models.example:444/onnx/a",
        "https://models.example./onnx/a", "https://files.example/a.onnx", "s3://bucket/other/a", "s3://Bucket/onnx/a",
        "s3://bucket2/onnx/a", "hf://organisation/a", "gs://pail-of-others/a",
    ],
)  # fmt: skip
def test_other_places_are_not_reached(url: str) -> None:
    assert "does not fetch from there" in (fault(url, ALLOWED) or "")


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("https://models.example/onnx/../secret", "must not hold '.'"),
        ("https://models.example/onnx/%2e%2e/secret", "must not hold '.'"),
        ("https://models.example/onnx/%2E./secret", "must not hold '.'"),
        ("https://models.example/onnx/..%2fsecret", "must not hold '.'"),
        ("https://models.example/onnx/..%5csecret", "must not hold '.'"),
        ("https://models.example/onnx/%252e%252e/secret", "must not hold '.'"),
        ("https://models.example/onnx/..;/secret", "must not hold '.'"),
        ("https://models.example/onnx/..;a=b/secret", "must not hold '.'"),
        ("https://models.example/onnx/..%3b/secret", "must not hold '.'"),
        ("https://models.example/onnx/./secret", "must not hold '.'"),
        ("https://models.example/onnx/..", "must not hold '.'"),
        ("https://models.example/onnx/..\\secret", "backslashes"),
        ("https://models.example\\@evil.example/onnx/a", "backslashes"),
        ("https://models.exam\tple/onnx/a", "blanks"),
        ("https://models.example/onnx/a\r\nX: y", "blanks"),
        ("https://models.example/onnx/é", "ASCII"),
        ("https://name:word@models.example/onnx/a", "credentials"),
        ("https://models.example@evil.example/onnx/a", "credentials"),
        ("https://models.example/onnx/a?token=x", "query"),
        ("s3://bucket/onnx/a::file:///etc/passwd", "'::'"),
        ("s3://bucket/onnx/a?versionId=1", "query"),
        ("file:///etc/passwd", "begins with"),
        ("ftp://models.example/onnx/a", "begins with"),
        ("models:/detector/1", "begins with"),
        ("https:///onnx/a", "a host"),
        ("https://[::1/onnx", "not a URL"),
        ("https://models.example:99999/onnx/a", "not a URL"),
    ],
)
def test_what_could_mean_another_place_is_refused(url: str, word: str) -> None:
    assert word in (fault(url, ALLOWED) or "")


def test_only_a_redirect_leads_to_a_query() -> None:
    signed = "https://models.example/onnx/a?X-Signature=%2F"
    assert fault(signed, ALLOWED) is not None
    assert fault(signed, ALLOWED, redirected=True) is None
    assert fault("https://evil.example/a?b", ALLOWED, redirected=True) is not None


def test_nothing_is_fetched_by_default() -> None:
    assert "CAVEAT_SOURCE_ALLOW is empty" in (fault("https://models.example/onnx/a", prefixes("")) or "")


@pytest.mark.parametrize("text", ["models.example", "https://", "https://a/?b", "file:///", "https://a/../b", "*"])
def test_a_list_with_something_else_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|begins|must"):
        prefixes(f"https://models.example/, {text}")
