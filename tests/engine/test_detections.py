"""A detector's scores are told from the places of its boxes."""

from __future__ import annotations

import pytest

from caveat_worker.engine.autodiff.detections import doubt, scores_beside_boxes

OUTPUTS = {
    "DETR by transformers": [("logits", (1, 100, 92), False), ("pred_boxes", (1, 100, 4), True)],
    "SSD of the ONNX zoo": [("bboxes", (1, "n", 4), False), ("labels", (1, "n"), False), ("scores", (1, "n"), True)],
    "torchvision": [("boxes", ("n", 4), False), ("scores", ("n",), True)],
    "without names": [("output", ("n", 200, 4), True), ("838", ("n", 200, 21), True)],
    "RetinaFace": [("loc", (1, 16800, 4), False), ("conf", (1, 16800, 2), True), ("landms", (1, 16800, 10), False)],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_scores_come_before_boxes(name: str) -> None:
    first = min(OUTPUTS[name], key=lambda one: doubt(*one))
    assert first[0] in {"logits", "scores", "838", "conf"}


@pytest.mark.parametrize("name", ["blocks", "local", "allocation", "hidden"])
def test_words_that_only_look_like_places(name: str) -> None:
    assert doubt(name, (1, 10, 64), squashed=False) == 2


COCO = tuple(map(str, range(80)))


@pytest.mark.parametrize(
    ("shape", "names", "found"),
    [
        ((1, 84, 8400), (COCO,), (1, 4)),
        ((1, 25200, 85), (COCO,), (2, 4)),
        ((1, 25200, 85), (), (2, 4)),
        (("batch", 84, "anchors"), (), (1, 4)),
        ((1, 5, 8400), (("face",),), (1, 4)),
        ((1, 7, 300), (("a", "b", "c"),), (1, 4)),
        ((1, 64, 768), (), None),
        (("batch", "tokens", 84), (), None),
        ((8, 7, 6), (("a", "b", "c"),), None),
        ((1, 7, 300), (("a", "b"),), (1, 4)),
        ((1, 7, 300), (("a", "b", "c", "d"),), None),
        ((1, 1000), (COCO,), None),
    ],
)
def test_scores_of_boxes_in_one_output(
    shape: tuple[int | str, ...], names: tuple[tuple[str, ...], ...], found: tuple[int, int] | None
) -> None:
    assert scores_beside_boxes(shape, names) == found
