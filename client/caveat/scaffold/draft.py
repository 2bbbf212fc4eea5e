"""A drafted audit as data, so that a part that does not run can be left out, and its text as an audit file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Fields = Mapping[str, Any]
MOST_ON_A_LINE = 6


@dataclass(frozen=True)
class Concept:
    """A concept: the set that shows it, the sets that do not, and what the gate asks."""

    examples: str
    against: tuple[str, ...]
    must: str = "not_matter"
    tolerance: float = 0.1
    """In standard deviations of the target."""


@dataclass(frozen=True)
class Draft:
    """The parts of an audit that depend on the data; its first example set is the one that others vary."""

    sets: Mapping[str, Fields]
    at: str
    """The set at which the target is measured."""
    concepts: Mapping[str, Concept]
    groups: Mapping[str, Fields] = field(default_factory=dict)
    target: Fields = field(default_factory=dict)
    class_is_known: bool = False
    """Whether the data say which class the audit is about."""
    constants: Mapping[str, int] = field(default_factory=dict)
    """Numbers for inputs that no example feeds."""
    comments: tuple[str, ...] = ()
    """Lines above the example sets."""
    to_check: tuple[str, ...] = ()
    """Sentences about what was assumed."""

    def without(self, pointer: str) -> Draft | None:
        """The draft without the part at this JSON pointer, where that leaves a question; concepts go first."""
        kind, name = ([*pointer.split("/")[1:], "", ""])[:2]
        if kind == "groups":
            return self._kept(self.concepts, {one: group for one, group in self.groups.items() if one != name})
        if kind == "concepts" and name in self.concepts:
            return self._kept({one: asked for one, asked in self.concepts.items() if one != name}, self.groups)
        if kind == "examples" and name != self.at:
            concepts = {
                one: asked for one, asked in self.concepts.items() if name not in (asked.examples, *asked.against)
            }
            return self._kept(concepts, self.groups)
        if kind in ("model", "targets", "examples"):
            return None
        return self._kept({}, self.groups)

    def _kept(self, concepts: Mapping[str, Concept], groups: Mapping[str, Fields]) -> Draft | None:
        """The draft with only these questions and the sets that they read; None without a question or a change."""
        if (len(concepts), len(groups)) == (len(self.concepts), len(self.groups)) or not (concepts or groups):
            return None
        used = {self.at, *(group["examples"] for group in groups.values())}
        used |= {name for one in concepts.values() for name in (one.examples, *one.against)}
        sets = {name: fields for name, fields in self.sets.items() if name in used}
        return replace(self, sets=sets, concepts=concepts, groups=groups)

    def text(self, model: str, heading: list[str]) -> str:
        """The audit file, with comments that say what each part is for."""
        lines = [f"# {line}" for line in heading] + [f"model: {scalar(model)}"]
        lines += [f"constants: {flow(self.constants)}   # inputs that take one number"] if self.constants else []
        lines.append("")
        lines += [f"# {line}" for line in self.comments]
        if any("set" in fields for fields in self.sets.values()):
            lines.append("# `set` gives every row the same value of a column: the same rows twice, in matched pairs.")
        lines += ["examples:", *self._examples(), ""]
        if self.concepts:
            lines += ["# A concept: examples that show it, against a reference set that does not.", "concepts:"]
            for name, one in self.concepts.items():
                against = one.against[0] if len(one.against) == 1 else list(one.against)
                lines.append(f"  {name}: {flow({'examples': one.examples, 'against': against})}")
            lines.append("")
        targets = bool(self.concepts) or any("target" in group for group in self.groups.values())
        if targets:
            lines += [
                "# The number that may depend on the concept, measured at these examples; `index` is the class.",
                *(_NEXT_TOKEN if self.target.get("reduce") == "last" else []),
                "targets:",
                f"  answer: {flow({**self.target, 'examples': self.at})}",
                "",
            ]
        if self.groups:
            lines += ["# Decisions compared between groups of people.", "groups:"]
            lines += [f"  {name}: {flow(group)}" for name, group in self.groups.items()] + [""]
        return "\n".join([*lines, *self._gate(), "", *(_EXPLAIN if targets else []), *_SETTINGS]) + "\n"

    def _examples(self) -> list[str]:
        """The example sets: the first in full, others by what they change in it where they share its fields."""
        base, shared = next(iter(self.sets.items()))
        varied = [name for name, fields in self.sets.items() if name != base and _varies(fields, shared)]
        lines = [f"  {base}:{f' &{base}' if varied else ''}"]
        for key, value in shared.items():
            lines += _entry(key, value)
        for name, fields in self.sets.items():
            if name in varied:
                changed = {key: value for key, value in fields.items() if shared.get(key) != value}
                lines.append(f"  {name}: {{<<: *{base}, {flow(changed)[1:]}")
            elif name != base:
                lines.append(f"  {name}: {flow(fields)}")
        return lines

    def _gate(self) -> list[str]:
        """The gate, with a comment on each kind of its lines."""
        lines = ["# The command exits with 1 if one of these lines fails, and with 4 if the evidence settles none."]
        if self.concepts:
            lines.append(
                "# `tolerance` is the largest effect that counts as none, in standard deviations of the target; "
                "`caveat plan` says which one these examples can settle, most exactly with the gate's report."
            )
        if self.groups:
            lines.append("# The four-fifths rule: the group selected least often has 0.8 of the highest rate or more.")
        lines.append("gate:")
        for name, one in self.concepts.items():
            lines.append(
                f"  - {flow({'concept': name, 'target': 'answer', 'must': one.must, 'tolerance': one.tolerance})}"
            )
        for name in self.groups:
            lines.append(f"  - {flow({'group': name, 'metric': 'selection_rate_ratio', 'at_least': 0.8})}")
        return lines


_NEXT_TOKEN = [
    "# `reduce: last` is the token that follows each text. To name it, add `labels: tokenizer.json` below the model",
    "# and ask for `class: she` in place of `index`; `versus: he` beside it subtracts another token.",
]
_EXPLAIN = [
    "# Where in single examples the answer comes about; `caveat explain` runs it alone.",
    "# explain: {highest: {of: answer, examples: {pick: highest, count: 3}, show: [occlusion]}}",
    "",
]
_SETTINGS = [
    "# `auto` picks a few layers between input and output. To choose them yourself: [block3, block9@mean].",
    "layers: auto",
    "",
    "# method: {runs: 500, permutations: 499, bootstrap: 499, alpha: 0.05, seed: 0}   # the defaults",
]


def flow(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{scalar(key)}: {flow(one)}' for key, one in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value) if isinstance(value, str) else number(value)


def scalar(text: str) -> str:
    """Text as a YAML scalar, quoted where necessary."""
    simple = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*|\.\.?/[A-Za-z0-9_./-]*", text)
    if simple and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n"):
        return text
    if text.isprintable() and "\\" not in text:
        return "'{}'".format(text.replace("'", "''"))
    return json.dumps(text)


def number(value: float) -> str:
    """A number as short as it can be."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))


def set_name(words: str, taken: Mapping[str, Any] | None = None) -> str:
    """Turns the name of a file or column into a valid name of an example set or concept that is not taken."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", words).strip("_.-")[:50]
    plain = plain if plain and plain[0].isalnum() else f"set_{plain}".rstrip("_")
    number = next(count for count in range(1, 10_000) if count == 1 or f"{plain}_{count}" not in (taken or {}))
    return plain if plain not in (taken or {}) else f"{plain}_{max(number, 2)}"


def _varies(fields: Fields, shared: Fields) -> bool:
    """Whether a set has all fields of another, and more than its kind's own one in common with it."""
    return set(shared) <= set(fields) and any(fields[key] == value for key, value in shared.items())


def _entry(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and len(value) > MOST_ON_A_LINE:
        return [f"    {key}:", *(f"      - {flow(one)}" for one in value)]
    return [f"    {key}: {flow(value)}"]
