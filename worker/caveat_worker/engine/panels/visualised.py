"""The story of visualised features: settle what is asked, put a set in order, and make a picture for each atom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np
from scipy import ndimage

from caveat_spec.explain import Atoms
from caveat_spec.explained import Spectrum
from caveat_spec.explanations import VisualisationOptions
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.differentiate import expose, find_layer, vjp
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.resized import resized
from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.base.store import ArrayStore
from caveat_worker.engine.explanations.atoms import by_position, channel_axis
from caveat_worker.engine.explanations.feature_visualisation import Aim, Ascend, Made, Palette, feature_visualisation
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.explanations.runs import INPUT
from caveat_worker.engine.onnx.session import Feeds, Session, open_session
from caveat_worker.engine.panels.choice import Source, in_batches
from caveat_worker.engine.panels.directions import Directions
from caveat_worker.engine.panels.icons import Pictured, Sight, responses, spectrum_of
from caveat_worker.engine.panels.planned import FEWEST_ICONS, check_examples, check_numbers, deepest, shape_seen

COLOURS = (1, 3)
SEEN_FOR_PALETTE = 256
"""Examples from which the range and the mixture of colours are."""
_BY_EXAMPLES = "Look at the set's own examples in their order: `explain` with `as: icons`."
TIMES = 8
"""Of the way to a picture, the times at which its response is told."""


@dataclass(frozen=True)
class Visualised:
    """A made picture, and the examples of the set in the order of the same response."""

    atom: str
    unit: str
    """Of its responses."""
    shares: Float32Array
    """[colours, height, width] from 0 to 1."""
    response: float
    highest: float
    """The response to the example of the set that has most of it."""
    rise: tuple[float, ...]
    spectrum: Spectrum


@dataclass(frozen=True)
class Visualisations:
    """Everything that was asked of one layer."""

    layer: str
    sight: Sight
    size: tuple[int, int]
    resized: bool
    found: tuple[Visualised, ...]


@dataclass(frozen=True)
class Studio:
    """The sessions in which pictures of one size are made."""

    opened: OpenModel
    entry: str
    layer: str
    top: Session
    back: Session
    size: tuple[int, int]
    others: Feeds
    """What the model's other inputs hold [1, …]."""

    def ascend(self, aim: Aim) -> Ascend:
        """The response to pictures as the model takes them, and the derivative by them."""
        shapes: dict[int, tuple[int, ...]] = {}

        def ascended(x: Float32Array) -> tuple[Float64Array, Float32Array]:
            outer, inner = self.opened.layout(INPUT), self.opened.layout(self.layer)
            fed = {**self.others, self.entry: outer.own(x).astype(self.opened.entry.tensors[0].dtype, copy=False)}
            if aim.cosine or len(x) not in shapes:
                a = inner.seen(np.asarray(self.top.run(fed)[self.layer]))
                seeds, shapes[len(x)] = aim.derivatives(a), a.shape
            else:
                seeds = aim.derivatives(np.broadcast_to(np.float32(0), shapes[len(x)]))
            found = self.back.run({**fed, f"seed/{self.layer}": inner.own(seeds)})
            return aim.values(inner.seen(found[self.layer])), outer.seen(np.asarray(found[f"gradient/{self.entry}"]))

        return ascended


def visualise(
    plan: Plan,
    opened: OpenModel,
    asked: VisualisationOptions,
    examples: str,
    pictured: Pictured,
    store: ArrayStore,
    cores: int,
    stepped: Callable[[int], None],
) -> Visualisations:
    """A picture for each atom that is asked, beside the examples of a set; `stepped` counts steps.

    Raises InvalidInput for models that take no pictures, and for atoms that the layer does not have.
    """
    source = pictured.source
    names, x = source.names[examples], _some(opened, source, examples)
    layer = deepest(plan, opened.target, _BY_EXAMPLES) if asked.layer == "auto" else find_layer(plan.model, asked.layer)
    if x.ndim != 4 or x.shape[1] not in COLOURS or opened.entry.embeds:
        raise InvalidInput(
            "no-picture-to-make",
            f"A picture has rows, columns, and {' or '.join(map(str, COLOURS))} colours, and the model's input has "
            f"{' x '.join(map(str, x.shape[1:])) or 'one number'}.",
            _BY_EXAMPLES,
        )
    if len(names) < FEWEST_ICONS:
        raise InvalidInput(
            "too-few-for-icons",
            f"Beside a made picture stand {FEWEST_ICONS} examples from the highest to the lowest, and '{examples}' has "
            f"{len(names)}.",
            "Name a larger set.",
        )
    shape = shape_seen(opened.model, layer)
    check_examples(asked.like, examples, names)
    aims = dict(_aims(plan, opened, asked, examples, layer, shape, source, store))
    order = responses(opened, source, examples, layer, _measured([*aims.values()]))
    palette, sight = Palette.of(x), Sight.of(opened, layer, (1, *shape), x.shape)
    own, first = (x.shape[2], x.shape[3]), next(iter(aims.values()))
    fed = source.feeds(examples, [0])
    others = {name: array for name, array in fed.items() if name not in opened.entry.names}
    studio = studio_of(opened, layer, own, asked.side, first, others)

    def one(name: str, column: int) -> Visualised:
        values, places = order.values[:, column], order.places[:, column]
        highest = opened.input_of(source.feeds(examples, [int(values.argmax())]))
        result = feature_visualisation(
            studio.ascend(aims[name]),
            palette,
            studio.size,
            [[asked.seed, crc32(name.encode())]],
            asked.steps,
            instead=at_size(highest, studio.size),
            stepped=stepped,
        )
        spectrum = spectrum_of(name, examples, values, places, sight, pictured, FEWEST_ICONS)
        response, unit = float(result.responses[0]), "activation" if aims[name].origin is None else "sd"
        return Visualised(name, unit, result.shares[0], response, float(values.max()), _times(result), spectrum)

    with ThreadPoolExecutor(cores) as workers:
        found = tuple(workers.map(one, aims, range(len(aims))))
    return Visualisations(layer, sight, studio.size, studio.size != own, found)


def _some(opened: OpenModel, source: Source, examples: str) -> AnyArray:
    """The first examples of a set as the model takes them [n, …]."""
    rows = range(min(SEEN_FOR_PALETTE, len(source.names[examples])))
    return np.concatenate([opened.input_of(fed) for _, fed in in_batches(opened, source, examples, rows)])


def _aims(
    plan: Plan,
    opened: OpenModel,
    asked: VisualisationOptions,
    examples: str,
    layer: str,
    shape: Sequence[int],
    source: Source,
    store: ArrayStore,
) -> Iterator[tuple[str, Aim]]:
    """Each atom by its name, with what is raised for it."""
    axis = channel_axis((1, *shape))
    atoms: Atoms = "neurons" if axis is None else "channels"
    count = prod(shape) if axis is None else shape[axis - 1]
    check_numbers(asked.channels, atoms, count, layer)
    for channel in dict.fromkeys(asked.channels):
        yield f"{atoms.removesuffix('s')} {channel}", Aim(np.eye(1, count, channel)[0], centre=asked.centre)
    for concept in dict.fromkeys(asked.concepts):
        if concept not in plan.audit.concepts:
            raise InvalidInput(
                "unknown-concept",
                f"The audit declares no concept '{concept}'.",
                f"It declares {', '.join(plan.audit.concepts) or 'none'}.",
            )
        cav = Directions(plan, source, store, without="")(opened, concept, layer, "mean")
        v = by_position(cav.v[None]).sum((0, 1))  # each position has an equal part of it
        origin = float((cav.v * cav.origin).sum())
        yield f"concept {concept}", Aim(v, origin, cosine=True, centre=asked.centre)
    for name in dict.fromkeys(asked.like):
        runs, x = opened.around(source.feeds(examples, [source.names[examples].index(name)]))
        wide = by_position(runs.activations(x, layer))[0].astype(float)
        size = np.linalg.norm(wide, axis=1)
        strongest = int(size.argmax())
        yield f"like {name}", Aim(wide[strongest] / (size[strongest] or 1.0), cosine=True, centre=asked.centre)


def _measured(aims: Sequence[Aim]) -> Callable[[AnyArray, Indices | None], tuple[Float64Array, Indices]]:
    """How strongly each atom responds to examples, and where."""

    def measured(a: AnyArray, _: Indices | None) -> tuple[Float64Array, Indices]:
        found = [aim.responses(a) for aim in aims]
        return np.stack([values for values, _ in found], 1), np.stack([places for _, places in found], 1)

    return measured


def studio_of(opened: OpenModel, layer: str, own: tuple[int, int], side: int, first: Aim, others: Feeds) -> Studio:
    """Sessions for pictures whose longer side has `side` pixels at most, else for those of the model's own size."""
    wanted = _scaled(own, side)
    if wanted != own:
        try:
            return _opened(opened, _of_size(opened, layer, wanted), layer, wanted, first, others)
        except InvalidInput:  # a reshape or a table of positions fixes the size
            pass
    return _opened(opened, opened.behind, layer, own, first, others)


def _scaled(own: tuple[int, int], side: int) -> tuple[int, int]:
    """A size of the same proportions whose longer side is at most `side`."""
    share = min(1.0, side / max(own))
    return max(1, round(own[0] * share)), max(1, round(own[1] * share))


def _of_size(opened: OpenModel, layer: str, size: tuple[int, int]) -> Model:
    """The model up to the layer, for pictures of another size."""
    order = opened.layout(INPUT).order or tuple(range(4))
    sizes: list[int | None] = [None] * 4
    sizes[order[2]], sizes[order[3]] = size
    return resized(opened.behind, opened.entry.names[0], sizes, layer)


def _opened(opened: OpenModel, model: Model, layer: str, size: tuple[int, int], first: Aim, others: Feeds) -> Studio:
    """The sessions of a model, in which a grey picture has run once; raises InvalidInput where it does not."""
    entry = opened.entry.names[0]
    top = open_session(expose(model, [layer]), provider=opened.provider, threads=opened.threads)
    back = open_session(vjp(model, layer, [entry], also=[layer]), provider=opened.provider, threads=opened.threads)
    studio = Studio(opened, entry, layer, top, back, size, others)
    sizes = opened.layout(INPUT).sizes(opened.entry.tensors[0].shape)
    colours = sizes[1] if isinstance(sizes[1], int) else COLOURS[-1]
    studio.ascend(first)(np.zeros((1, colours, *size), np.float32))
    return studio


def at_size(x: AnyArray, size: tuple[int, int]) -> Float32Array:
    """Pictures [n, colours, height, width] as large as made ones."""
    shares = (1.0, 1.0, size[0] / x.shape[2], size[1] / x.shape[3])
    return np.asarray(x if shares[2:] == (1, 1) else ndimage.zoom(x, shares, order=1, grid_mode=True, mode="nearest"))


def _times(made: Made) -> tuple[float, ...]:
    """The response at eight times of the way, each the mean of its steps."""
    return tuple(float(part.mean()) for part in np.array_split(made.rise[0], TIMES))
