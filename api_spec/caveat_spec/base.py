"""The ground every document stands on: strict models, names, digests and numbers that JSON can carry."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints
from typing_extensions import TypeAliasType

from caveat_spec.attribute_docs import DescribedModel


class Document(DescribedModel):
    """A JSON value that refuses unknown fields, is never changed once made, and holds finite numbers only.

    What it refuses is not repeated in the error, which may end up in a log.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        serialize_by_alias=True,
    )


LARGEST_INTEGER = 2**53 - 1
"""Beyond it, not every reader of JSON can tell whole numbers apart (RFC 7493)."""


def _integer(value: Any) -> Any:
    """JSON Schema calls 204.0 an integer; a strict pydantic integer would not."""
    if isinstance(value, int | float) and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"Whole numbers end at {LARGEST_INTEGER}, where JSON's do")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Integer = Annotated[int, BeforeValidator(_integer)]

Name = TypeAliasType("Name", Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")])
"""What an author calls a concept, a target, an example set: up to 64 letters, digits, `_`, `.` and `-`."""

Digest = TypeAliasType("Digest", Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")])
"""The SHA-256 of some bytes: `sha256:` and 64 hexadecimal digits."""


JobId = Annotated[str, StringConstraints(pattern=r"^[0-9a-hjkmnp-tv-z]{26}$")]
"""The id of a job, a webhook or a study: a ULID."""


def digest_of_bytes(content: bytes) -> str:
    """The `Digest` of some bytes."""
    return f"sha256:{sha256(content).hexdigest()}"


Source = TypeAliasType("Source", Annotated[str, StringConstraints(min_length=1, max_length=4096)])
"""Where bytes are: a digest, or a URL that ends in `#sha256=` and the digest's digits, from which the service fetches
them if its operator allows that; on the command line also a path relative to the audit file."""

Interval = tuple[float, float]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[Integer, Field(ge=0)]
