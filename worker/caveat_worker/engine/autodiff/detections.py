"""Which outputs hold a detector's boxes, and where its scores are."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caveat_worker.engine.autodiff.class_names import Names

PLACE = 4
"""Numbers that say where a box is."""
_SCORES = re.compile(r"scor|logit|prob|class|cls|conf", re.IGNORECASE)
_BOXES = re.compile(r"box|coord|anchor|regress|(^|[^a-z])loc(s|ations?)?([^a-z]|$)", re.IGNORECASE)
_COCO = 80
_MANY = 16
"""Boxes: fewer are no detector's."""


def doubt(name: str, shape: Sequence[int | str | None] | None, squashed: bool) -> int:
    """How unlikely an output is to hold scores, from 0 for scores by name to 3 for the places of boxes.

    `squashed` says whether a softmax or a sigmoid makes it, as one may also do with the places of boxes.
    """
    if _SCORES.search(name):
        return 0
    if _BOXES.search(name) or (shape is not None and len(shape) == 3 and shape[-1] == PLACE):
        return 3
    return 1 if squashed else 2


def scores_beside_boxes(shape: Sequence[int | str | None], names: Sequence[Names]) -> tuple[int, int] | None:
    """The axis of an output [n, …, …] that holds each box and its scores together, and the place of the first score.

    As YOLO's versions write it: 4 numbers for the place, often one that says whether there is anything, and the scores
    of all classes. None for other outputs.
    """
    if len(shape) != 3:
        return None
    for classes in {len(one) for one in names} or {_COCO}:
        for axis, other in ((1, 2), (2, 1)):
            size, boxes = shape[axis], shape[other]
            many = boxes >= _MANY if isinstance(boxes, int) else bool(names) or axis == 1
            if size in (PLACE + classes, PLACE + 1 + classes) and many:
                return axis, PLACE
    return None
