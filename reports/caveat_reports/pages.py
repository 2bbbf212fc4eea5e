"""The templates of every page: their environment, the words they use, and their style with the hash that allows it."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from caveat_reports import formatting, summary
from caveat_spec.sanitize import raster, sanitized

LONG_WORD = 20
"""Characters from which a word may wrap inside."""


@dataclass(frozen=True)
class Style:
    """A style sheet, and its hash for a content security policy."""

    text: Markup
    hash: str


@cache
def styled(name: str) -> Style:
    """A style sheet of ours; nothing from a report is in it."""
    text = environment().get_template(name).render()
    return Style(Markup(text), policy_hash(text))  # noqa: S704


def policy_hash(text: str) -> str:
    """The hash by which a content security policy allows a style or a script of ours."""
    return b64encode(sha256(text.encode()).digest()).decode()


@cache
def environment() -> Environment:
    """The templates, compiled once, and the words they use."""
    made = Environment(
        loader=PackageLoader("caveat_reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_sanitized,
    )
    made.filters.update(
        count=formatting.count,
        digest=formatting.short_digest,
        fixed=formatting.fixed,
        null_words=summary.null_words,
        p=formatting.p_value,
        plain=formatting.plain,
        share=formatting.share,
        signed=formatting.signed,
        signed_fixed=formatting.signed_fixed,
        long=lambda name: len(name) > LONG_WORD,
        slug=formatting.slug,
        words=lambda name: name.replace("_", " "),
        breakable=breakable,
        prose=prose,
        picture=raster,
    )
    return made


def breakable(text: str) -> Markup:
    """`text` whose long words may wrap after `/`, `.`, `_`, `:` and `@`."""
    words = sanitized(text).split(" ")
    parts = [re.split(r"(?<=[/._:@])", word) if len(word) > LONG_WORD else [word] for word in words]
    return Markup(" ").join(Markup("<wbr>").join(part) for part in parts)  # `join` escapes each part


def prose(text: str) -> Markup:
    """A sentence whose words between backticks are code, breakable; one with an odd backtick is left as it is."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return breakable(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(breakable(part)) if number % 2 else breakable(part)
        for number, part in enumerate(parts)
    )


def _sanitized(value: Any) -> Any:
    """What Jinja prints: strings without unseen characters; its own markup as it is."""
    return sanitized(value) if type(value) is str else value
