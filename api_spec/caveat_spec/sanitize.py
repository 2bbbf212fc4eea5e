"""Text that a model, a file or an example chose, made safe to look at, for each kind of output.

Nothing of it reaches a terminal, a log or a report otherwise: whoever writes an output passes its text through here.
"""

from __future__ import annotations

import re
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters, invisible ones, lone surrogates, other line separators, and changes of writing direction."""
_BREAK = re.compile("[\t\n\r]")
_COMMAND = re.compile(r"^(\s*:)(?=:)|(#)(?=#(?:\[|vso\[|teamcity\[))")
"""The beginning of a command to a CI system that reads it in a log: GitHub, Azure DevOps, TeamCity."""

_RASTER = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]+={0,2}")


def sanitized(text: str) -> str:
    """`text` with each character that is not seen, or that changes how others are read, shown as U+FFFD.

    Tabs and line feeds stay. What is left may stand in XML 1.0 and reads as it is written.
    """
    return _UNSEEN.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The same on one line: a tab or a line break becomes a space."""
    return sanitized(_BREAK.sub(" ", text))


def without_command(line: str) -> str:
    """A line of a log, in which no CI system finds a command: `: :error::` for `::error::`, `# #[` for `##[`."""
    return _COMMAND.sub(lambda found: f"{found[0]} ", line)


def log_lines(text: str) -> str:
    """Lines of a log, such as a traceback."""
    return "\n".join(without_command(sanitized(line)) for line in text.split("\n"))


def document(value: Any) -> Any:
    """A JSON document whose strings are one line each."""
    match value:
        case str():
            return one_line(value)
        case dict():
            return {one_line(str(key)): document(one) for key, one in value.items()}
        case list():
            return [document(one) for one in value]
    return value


def json_text(serialised: str) -> str:
    """JSON in which such characters are escaped, so that its values stay what they are; also no CI command."""
    escaped = _UNSEEN.sub(lambda found: _escape(found[0]), serialised)
    return _COMMAND.sub(lambda found: f"{found[0][:-1]}\\u{ord(found[0][-1]):04x}", escaped)


def raster(thumbnail: str | None) -> str | None:
    """A thumbnail that is a raster picture inside the page; nothing that would be fetched or could run."""
    return thumbnail if thumbnail and _RASTER.fullmatch(thumbnail) else None


def _escape(character: str) -> str:
    """A character as JSON spells it in ASCII: in UTF-16."""
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
