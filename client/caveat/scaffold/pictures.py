"""Drafts of audits of pictures: two folders, folders by class, or one folder with its pictures made brighter."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caveat.pack import pictures
from caveat.scaffold.beside import FEWEST, REFERENCE, SPLITS, Beside, likeliest
from caveat.scaffold.draft import Concept, Draft, set_name
from caveat.scaffold.picture_sizes import Size, is_channels_last, sizes_to_try, spatial_sizes
from caveat.scaffold.target import Question

UNREAD = (".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff")
"""Formats of pictures that are not read."""
MOST_PICTURES = 200
MOST_REFERENCES = 8
BRIGHTER = 20
"""Of 255 levels, by which every pixel is brighter in a pair that is made from one folder."""
PIXELS = "The model's input is (pixel - mean) / std, with pixels from 0 to 255. Use the values it was trained with."

CHECK_PIXELS = "`preprocess`: mean and std should be those that the model was trained with."


def picture_folders(beside: Beside) -> dict[Path, int]:
    """Folders of pictures and how many each holds: those beside the model, or inside the only one beside it."""
    found: dict[Path, int] = {}
    for place in beside.places:
        found |= _folders_in(place)
    if not found:
        found = {place: count for place in beside.places if (count := len(pictures(place)))}
        return dict(list(found.items())[:1])
    while len(found) == 1 or all(one.name.lower() in SPLITS for one in found):
        first = min(found, key=lambda one: SPLITS.index(one.name.lower()) if one.name.lower() in SPLITS else 0)
        inner = _folders_in(first)
        if not inner:
            break
        found = inner
    return found


def unread_folders(beside: Beside) -> dict[Path, str]:
    """Folders beside the model with pictures in formats that are not read, and how many: `40 of .bmp`."""
    found: dict[Path, str] = {}
    for place in beside.places:
        for folder in sorted(one for one in place.iterdir() if one.is_dir() and not one.name.startswith(".")):
            count, suffix = max((count, suffix) for suffix, count in _suffixes(folder).items())
            if count:
                found[folder] = f"{count} of {suffix}"
    return found


def propose_pictures(beside: Beside, question: Question) -> Iterator[Draft]:
    """A concept's folder against the others; without two folders of enough pictures, the same ones made brighter."""
    if len(beside.inputs) != 1 or spatial_sizes(beside.inputs[0]) is None:
        return
    found = picture_folders(beside)
    enough = {path: count for path, count in found.items() if count >= FEWEST}
    sizes = sizes_to_try(beside.inputs[0], (file for path in enough for file in list(pictures(path).values())[:FEWEST]))
    ways = [preprocessing(beside, size) for size in sizes]
    if len(enough) > 1:
        yield from (_of_folders(beside, enough, len(found), how, question) for how in ways)
    why = _why_one_folder(beside, found)
    for path in reversed(likeliest(enough)):
        yield from (_of_one_folder(beside, path, how, question, why) for how in ways)


def _why_one_folder(beside: Beside, found: dict[Path, int]) -> str:
    """Why pictures are compared with themselves: what keeps the other folders from being compared with them."""
    few = [f"{path.name}/ has {count} of the {FEWEST} that it needs" for path, count in found.items() if count < FEWEST]
    unread = [f"{path.name}/ has {what}, a format that is not read" for path, what in unread_folders(beside).items()]
    if few or unread:
        return f"{' and '.join([*few, *unread])}"
    return "there is one folder of pictures" if len(found) < 2 else "an audit of the folders together does not run"


def _of_folders(
    beside: Beside, enough: dict[Path, int], folders: int, preprocess: dict[str, Any], question: Question
) -> Draft:
    likely = likeliest(enough)
    concept, others = likely[0], likely[1:]
    named = bool(REFERENCE.search(others[-1].stem))
    references = [others[-1]] if named or len(others) == 1 else others[:MOST_REFERENCES]
    sets: dict[str, Any] = {}
    names = {path: set_name(path.name) for path in (*references[::-1], concept)}
    stems = {path: {Path(name).stem for name in pictures(path)} for path in names}
    paired = len(references) == 1 and stems[concept] <= stems[references[0]]
    for path, name in names.items():
        sets[name] = {"images": beside.relative(path), "preprocess": preprocess}
        if enough[path] > MOST_PICTURES and (not paired or stems[concept] == stems[references[0]]):
            sets[name]["limit"] = MOST_PICTURES
    if paired:
        sets[names[concept]]["pairs_with"] = names[references[0]]
    is_class = not named and folders == question.classes > 1
    asked = Concept(names[concept], tuple(names[one] for one in references), "matter" if is_class else "not_matter")
    if is_class:
        position = sorted(path.name for path in enough).index(concept.name)
        question = question.of_class(position)
    left_out = [] if named else [path.name for path in others[MOST_REFERENCES:]]
    return Draft(
        sets,
        names[references[-1]],
        {names[concept]: asked},
        target=question.fields,
        class_is_known=is_class,
        comments=(PIXELS,),
        to_check=(CHECK_PIXELS, *_not_compared_with(left_out)),
    )


def _not_compared_with(folders: Sequence[str]) -> Iterator[str]:
    """What to check where not every folder is part of the reference."""
    if folders:
        others = f" and {len(folders) - 1:,} others" if len(folders) > 1 else ""
        yield (
            f"the concept is compared with {MOST_REFERENCES} folders, and not with {folders[0]}{others}; add those "
            "that matter to `examples` and to `against`."
        )


def _of_one_folder(beside: Beside, path: Path, preprocess: dict[str, Any], question: Question, why: str) -> Draft:
    """The same pictures twice, once a little brighter: the one edit that needs no other picture."""
    name = set_name(path.name if path not in beside.places else "photos")
    mean = preprocess["mean"]
    darker = [one - BRIGHTER for one in mean] if isinstance(mean, list) else mean - BRIGHTER
    plain: dict[str, Any] = {"images": beside.relative(path), "preprocess": preprocess}
    if len(pictures(path)) > MOST_PICTURES:
        plain["limit"] = MOST_PICTURES
    brighter = {**plain, "preprocess": {**preprocess, "mean": darker}, "pairs_with": name}
    return Draft(
        {name: plain, "brighter": brighter},
        name,
        {"brightness": Concept("brighter", (name,))},
        target=question.fields,
        comments=(PIXELS, f"`brighter` has the same pictures, every pixel {BRIGHTER} of 255 levels brighter."),
        to_check=(
            CHECK_PIXELS,
            f"the concept is brightness, because {why}; put pictures (PNG, JPEG or WebP) that show yours into concept/ "
            f"(at least {FEWEST}, better 50) and run `caveat init --force` again.",
        ),
    )


def preprocessing(beside: Beside, size: Size) -> dict[str, Any]:
    """Layout and channels by the model; mean and std by its preprocessor_config.json, else the common ones."""
    tensor = beside.inputs[0]
    gray = 1 in (tensor.shape[1], tensor.shape[3])
    mean: Any = 127.5
    std: Any = 127.5
    if tensor.dtype == "uint8":
        mean, std = 0, 1
    for path in beside.files(".json"):
        if path.name == "preprocessor_config.json":
            mean, std = _configured(path, mean, std)
    how: dict[str, Any] = {"size": size[0] if size[0] == size[1] else list(size), "mean": mean, "std": std}
    if is_channels_last(tensor):
        how["layout"] = "nhwc"
    if gray:
        how["channels"] = "gray"
    return how


def _configured(path: Path, mean: Any, std: Any) -> tuple[Any, Any]:
    """Mean and std of the file that Hugging Face's image processors write, for pixels from 0 to 255."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        scale = 1 / float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        if not config.get("do_normalize", True):
            return 0, round(scale, 6)
        return [[round(float(one) * scale, 6) for one in config[key]] for key in ("image_mean", "image_std")]  # type: ignore[return-value]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return mean, std


def _suffixes(folder: Path) -> dict[str, int]:
    """How many files a folder has of each format that is not read."""
    found = Counter(path.suffix.lower() for path in folder.iterdir() if path.is_file())
    return {suffix: found[suffix] for suffix in UNREAD}


def _folders_in(place: Path) -> dict[Path, int]:
    return {
        one: count
        for one in sorted(place.iterdir())
        if one.is_dir() and not one.name.startswith(".") and (count := len(pictures(one)))
    }
