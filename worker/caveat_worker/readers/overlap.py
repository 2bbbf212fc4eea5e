"""Examples that a concept shares with its reference set, which then cannot tell the two apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from caveat_spec.audit import Audit, Concept
from caveat_worker.readers.batching import batches
from caveat_worker.readers.source import ExampleSource

AT_ONCE = 256
"""Examples that are held at a time while they are compared."""


def overlaps(audit: Audit, sources: Mapping[str, ExampleSource]) -> Iterator[str]:
    """A sentence for each concept that has examples of its reference set, compared by their content."""
    known: dict[str, list[bytes]] = {}
    for name, concept in audit.concepts.items():
        sets = [one for one in (concept.examples, *concept.reference_sets) if not _edited(audit, concept, sources)]
        for one in sets:
            known.setdefault(one, list(_contents(sources[one])))
        for reference in sets[1:]:
            shared = len(set(known[reference]).intersection(known[concept.examples]))
            if shared:
                yield (
                    f"{shared} of the {len(sources[concept.examples])} examples of concept '{name}' "
                    f"('{concept.examples}') {'is' if shared == 1 else 'are'} also in its reference set '{reference}', "
                    "which makes the concept look weaker than it is. Leave them out of one of the two."
                )


def _edited(audit: Audit, concept: Concept, sources: Mapping[str, ExampleSource]) -> bool:
    """Whether the concept is an edit of rows, some of which have the value already."""
    return sources[concept.examples].kind == "table" and audit.examples[concept.examples].pairs_with is not None


def _contents(source: ExampleSource) -> Sequence[bytes]:
    """A digest of each example: of its file or row where the reader gives one, else of the model's inputs."""
    if source.contents is not None:
        return source.contents()
    found = []
    for batch in batches(source, AT_ONCE):
        for row in range(len(batch.names)):
            content = b"".join(batch.values[name][row].tobytes() for name in sorted(batch.values))
            found.append(hashlib.blake2b(content, digest_size=16).digest())
    return found
