"""The audited scenarios whose truth is known, with the measurements behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.validation.ground_truth import Asked, Count, Fact, Measured, gap, paired_change
from bench.validation.networks import Float64Array, outputs, pictures, probabilities
from bench.validation.tables import tables
from caveat.auditfile import read_audit
from caveat_spec.audit import Audit, Images, Preprocess
from examples.graph import Graph, save
from examples.loans import build as loans
from examples.loans.decisions import APPROVED, Decision, decisions
from examples.loans.model import LoanModel, train
from examples.mnist_patch import build as mnist_patch
from examples.perceptron import Perceptron
from examples.upside_down import build as upside_down
from examples.watermark import build as watermark

EXAMPLES = Path(__file__).parents[2] / "examples"
Inputs = Mapping[str, NDArray[Any]]
"""File name → the network's input."""


def placed(file: str, where: Path, folder: Path) -> Audit:
    """The audit of an example, its sources moved from `where` the example builds them into `folder`.

    It asks for no explanation: those take most of an audit's passes, and no verdict rests on them.
    """
    path = EXAMPLES / file
    audit = read_audit(path).audit.model_copy(update={"explain": {}})
    built = (EXAMPLES.parent / where).resolve()
    moved = {
        pointer: str(folder / (path.parent / source).resolve().relative_to(built))
        for pointer, source in audit.sources().items()
    }
    return audit.with_sources(moved)


# -- Watermark


def watermarked(folder: Path) -> list[Asked]:
    """A watermark that one network learned to read as "carton" and another did not; Latin text is the control."""
    watermark.build(folder)
    return [
        _watermark(folder, "EfficientNet-lite0", "efficientnet"),
        _watermark(folder, "SqueezeNet 1.1", "squeezenet"),
    ]


def _watermark(folder: Path, network: str, file: str) -> Asked:
    audit = placed(f"watermark/{file}.yaml", watermark.FOLDER, folder)
    carton = audit.targets["carton"].index
    photos, targets = (_pictures(audit, name) for name in ("photos", "targets"))
    over = outputs(Path(audit.model), _stacked(targets))
    facts = []
    for concept, examples in (("watermark", "watermarked"), ("latin", "latin")):
        with_mark = _pictures(audit, examples)
        before = outputs(Path(audit.model), _stacked({name: photos[name] for name in with_mark}))
        after = outputs(Path(audit.model), _stacked(with_mark))
        measured = paired_change(before[:, carton], after[:, carton], over[:, carton])
        rank = 1 + int(((after - before).mean(0) > (after - before).mean(0)[carton]).sum())
        shares = [float(probabilities(each)[:, carton].mean()) for each in (before, after)]
        known = (
            f"laid on {len(before)} photographs it changes the logit by {{}}, rank {rank} of {before.shape[1]} "
            f"classes, probability {shares[0]:.5f} → {shares[1]:.5f}"
        )
        facts.append(measured.fact(concept, "carton", 0.75, known))
    return Asked(f"A watermark over photographs: {network}", audit, facts)


# -- A patch in the corner


def patched(folder: Path) -> list[Asked]:
    """Digits with a patch in the corner: one network saw it on sevens, the other never saw it."""
    mnist_patch.build(folder)
    return [_patch(folder, "shortcut"), _patch(folder, "clean")]


def _patch(folder: Path, network: str) -> Asked:
    audit = _every_digit(placed(f"mnist_patch/{network}.yaml", mnist_patch.FOLDER, folder), folder)
    model, digits, with_patch = Path(audit.model), _pictures(audit, "digits"), _pictures(audit, "patched")
    before = outputs(model, _stacked({name: digits[name] for name in with_patch}))
    after = outputs(model, _stacked(with_patch))
    facts = []
    for name, target in audit.targets.items():
        index = target.index
        assert index is not None
        over = outputs(model, _stacked(_pictures(audit, target.examples)))
        measured = paired_change(before[:, index], after[:, index], over[:, index])
        called = [float((each.argmax(1) == index).mean()) for each in (before, after)]
        known = (
            f"drawn on {len(before)} digits, none of them a seven, it changes the logit by {{}}; digits called "
            f"{name}: {called[0]:.0%} → {called[1]:.0%}"
        )
        facts.append(measured.fact("patch", name, 0.75, known))
    return Asked(f"A patch in the corner: the {network} network", audit, facts, note=PATCH_NOTES[network])


PATCH_NOTES = {
    "shortcut": "Trained on digits where only sevens carry the patch (99 % of them).",
    "clean": "Trained on the digits without any patch, so there is no shortcut to learn. *The trap* is the score: it "
    "counts signs, and is near 0 or 1 here too; the effect shows how small the influence is.",
}


def _every_digit(audit: Audit, folder: Path) -> Audit:
    """The audit with all ten classes as targets, each at pictures of its own digit."""
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    plain: dict[str, Any] = audit.model_dump(mode="json", exclude_unset=True)
    how = plain["examples"]["digits"]["preprocess"]
    for digit, name in enumerate(names):
        into = folder / f"only-{name}"
        into.mkdir(exist_ok=True)
        for path in [*(folder / "digits").glob(f"*-{digit}.png"), *(folder / "sevens").glob(f"*-{digit}.png")]:
            (into / path.name).write_bytes(path.read_bytes())
        plain["examples"][f"only-{name}"] = {"images": str(into), "preprocess": how}
    for unused in ("sevens", "threes"):
        del plain["examples"][unused]
    plain["targets"] = {n: {"output": "logits", "index": d, "examples": f"only-{n}"} for d, n in enumerate(names)}
    plain["gate"] = [{"concept": "patch", "target": n, "must": "not_matter", "tolerance": 0.75} for n in names]
    return Audit.model_validate(plain)


# -- Loans


def lent(folder: Path) -> list[Asked]:
    """Mortgage decisions: one model has race as an input, the other does not."""
    loans.build(folder)
    rows = loans.divided(decisions())
    return [_with_race(folder, rows), _without_race(folder, rows)]


def _with_race(folder: Path, rows: list[Decision]) -> Asked:
    audit = placed("loans/with-race.yaml", loans.FOLDER, folder)
    model, columns = Path(audit.model), loans.MODELS["loans-with-race"]
    unseen = [row for row in rows if row["part"] == "test"]
    as_white, as_nonwhite = (
        _logit(model, [{**row, "white": value} for row in unseen], columns) for value in (1.0, 0.0)
    )
    measured = paired_change(as_white, as_nonwhite, _logit(model, unseen, columns))
    known = f"the same {len(unseen)} applications with only the race column changed: the logit changes by {{}}"
    counts = [*_recorded(rows), *_approved(rows, _logit(model, rows, columns) > 0)]
    return Asked(
        "Mortgage decisions: a model with race as an input",
        audit,
        [measured.fact("race", "approval", 0.1, known)],
        counts,
    )


def _without_race(folder: Path, rows: list[Decision]) -> Asked:
    audit = placed("loans/without-race.yaml", loans.FOLDER, folder)
    model, columns = Path(audit.model), loans.MODELS["loans-without-race"]
    unseen = _logit(model, [row for row in rows if row["part"] == "test"], columns)
    good = [row for row in rows if (row["meets_guidelines"], row["credit_history"], row["bankruptcy"]) == (1, 1, 0)]
    facts = []
    for concept, people in (("race", rows), ("race_at_good_credit", good)):
        white, others = (_logit(model, [row for row in people if row["white"] == value], columns) for value in (1, 0))
        measured = gap(white, others, unseen)
        known = (
            f"the logits of {len(others)} black or Hispanic applicants lie {{}} from those of {len(white)} white "
            "applicants, through other columns"
        )
        facts.append(measured.fact(concept, "approval", 0.1, known))
    return Asked(
        "Mortgage decisions: a model without race as an input",
        audit,
        facts,
        _approved(rows, _logit(model, rows, columns) > 0),
        note="The model has no race column to change, so the truth here is about the columns that correlate with race. "
        "`influential` says that people like these get a different score, not that the model sees their race.",
    )


def _recorded(rows: list[Decision]) -> list[Count]:
    return _ratios(rows, np.array([row[APPROVED] == 1 for row in rows]), "recorded")


def _approved(rows: list[Decision], approved: NDArray[np.bool_]) -> list[Count]:
    return _ratios(rows, approved, "model")


def _ratios(rows: list[Decision], approved: NDArray[np.bool_], whose: str) -> list[Count]:
    """Selection rate ratios by race and by sex, counted from the rows."""
    counts = []
    for column in ("race", "sex"):
        groups = {str(row[column]) for row in rows} - {"unknown"}
        rates = [float(np.mean(approved[[row[column] == group for row in rows]])) for group in groups]
        ratio = min(rates) / max(rates)
        counts.append(Count(f"{whose}_by_{column}", "selection_rate_ratio", ratio, "pass" if ratio >= 0.8 else "fail"))
    return counts


def _logit(model: Path, rows: list[Decision], columns: list[str]) -> Float64Array:
    inputs = np.array([[row[column] for column in columns] for row in rows], np.float32)
    return outputs(model, inputs)[:, 0]


# -- Upside-down text


def turned(folder: Path) -> list[Asked]:
    """A network as its authors published it, whose one task is to tell lines of text that are upside down."""
    upside_down.build(folder)
    audit = placed("upside_down/classifier.yaml", upside_down.FOLDER, folder)
    by_set = {
        name: outputs(Path(audit.model), np.load(folder / f"{name}.npy"), tensor="linear_1.tmp_1")
        for name in ("upright", "turned", "faded", "targets")
    }
    facts = []
    for concept, examples in (("upside_down", "turned"), ("faded", "faded")):
        measured = paired_change(by_set["upright"][:, 1], by_set[examples][:, 1], by_set["targets"][:, 1])
        share = [float(by_set[name].argmax(1).mean()) for name in ("upright", examples)]
        known = (
            f"changing {len(by_set['upright'])} lines this way moves the logit of *turned* by {{}}; lines called "
            f"turned: {share[0]:.0%} → {share[1]:.0%}"
        )
        facts.append(measured.fact(concept, "turned", 0.25, known))
    return [
        Asked(
            "Upside-down text: PP-OCR's text direction classifier",
            audit,
            facts,
            note="A published ONNX file (`rapidocr-onnxruntime` 1.4.4), audited unchanged; the lines of text are "
            "rendered. Faded print is the control.",
        )
    ]


# -- Stripes

CLASSES = {"zebra": 340, "tiger": 292, "carton": 478, "daisy": 985, "espresso": 967, "tabby": 281}
STRIPE_OPACITY = 0.3


def striped(folder: Path) -> list[Asked]:
    """Drawn stripes against photographs, and the same stripes laid on the photographs."""
    watermark.build(folder)
    generator = np.random.default_rng(watermark.SEED)
    for name in ("stripes", "striped"):
        (folder / name).mkdir(exist_ok=True)
    for path in sorted((folder / "watermarked").glob("*.png")):
        photo = np.asarray(Image.open(folder / "photos" / path.name), float)
        stripes = 255 * _grating(photo.shape[0], generator)[..., None].repeat(3, axis=2)
        laid_on = (1 - STRIPE_OPACITY) * photo + STRIPE_OPACITY * stripes
        Image.fromarray(stripes.astype(np.uint8)).save(folder / "stripes" / path.name)
        Image.fromarray(np.round(laid_on).astype(np.uint8)).save(folder / "striped" / path.name)
    audit = placed("watermark/efficientnet.yaml", watermark.FOLDER, folder)
    pixels = audit.examples["photos"]
    assert isinstance(pixels, Images)
    how = pixels.preprocess
    photos, on = pictures(folder / "photos", how), pictures(folder / "striped", how)
    before, after = (outputs(Path(audit.model), _stacked(each)) for each in ({name: photos[name] for name in on}, on))
    over = outputs(Path(audit.model), _stacked(pictures(folder / "targets", how)))
    measured = {name: paired_change(before[:, k], after[:, k], over[:, k]) for name, k in CLASSES.items()}
    return [_trap(audit, folder, how, measured), _laid_on(audit, folder, how, measured)]


def _grating(side: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Black and white stripes [side, side] of a random direction, width and phase."""
    y, x = np.mgrid[:side, :side]
    angle, period, phase = generator.uniform(0, np.pi), generator.uniform(8, 40), generator.uniform(0, 2 * np.pi)
    waves: NDArray[np.bool_] = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period + phase) > 0
    return waves


def _trap(audit: Audit, folder: Path, how: Preprocess, measured: Mapping[str, Measured]) -> Asked:
    return Asked(
        "Stripes: drawn ones against photographs",
        _about_stripes(audit, "stripes", Images(images=str(folder / "stripes"), preprocess=how)),
        _stripe_facts("stripes", measured),
        note="*The trap*: the concept's pictures are drawings and its reference set photographs, so the direction is "
        'as much "drawn" as "striped". The truth is the effect of stripes laid on photographs (30 % opaque). Here the '
        "scores of the other classes do not all collapse; the sizes, and for *daisy* the sign, are misleading.",
    )


def _laid_on(audit: Audit, folder: Path, how: Preprocess, measured: Mapping[str, Measured]) -> Asked:
    examples = Images(images=str(folder / "striped"), preprocess=how, pairs_with="photos")
    return Asked(
        "Stripes: photographs with stripes against the same photographs without",
        _about_stripes(audit, "stripes", examples),
        _stripe_facts("stripes", measured),
        note="The same stripes laid on the photographs, as matched pairs: the remedy for the audit above.",
    )


def _about_stripes(audit: Audit, concept: str, examples: Images) -> Audit:
    plain: dict[str, Any] = audit.model_dump(mode="json", exclude_unset=True)
    return Audit.model_validate(
        plain
        | {
            "examples": {name: plain["examples"][name] for name in ("photos", "targets")}
            | {concept: examples.model_dump(mode="json", exclude_unset=True)},
            "concepts": {concept: {"examples": concept, "against": "photos"}},
            "targets": {name: {"output": "logits", "index": k, "examples": "targets"} for name, k in CLASSES.items()},
            "layers": ["block10", "block13", "block15"],
            "gate": [{"concept": concept, "target": name, "must": "not_matter"} for name in CLASSES],
        }
    )


def _stripe_facts(concept: str, measured: Mapping[str, Measured]) -> list[Fact]:
    return [
        each.fact(concept, name, 0.1, "laid on photographs they change the logit by {}")
        for name, each in measured.items()
    ]


# -- Nothing

SPLITS = 5
"""Random sets of photographs that play a concept."""


def nothing(folder: Path) -> list[Asked]:
    """Photographs drawn at random from the reference set itself: no concept at all, on both networks."""
    watermark.build(folder)
    names = sorted(path.name for path in (folder / "photos").glob("*.png"))
    for split in range(SPLITS):
        drawn = set(np.random.default_rng([watermark.SEED, split]).permutation(names)[:45].tolist())
        for name in names:
            into = folder / (f"random{split}" if name in drawn else f"rest{split}")
            into.mkdir(exist_ok=True)
            (into / name).write_bytes((folder / "photos" / name).read_bytes())
    return [
        _random_photographs(folder, "EfficientNet-lite0", "efficientnet"),
        _random_photographs(folder, "SqueezeNet 1.1", "squeezenet"),
    ]


def _random_photographs(folder: Path, network: str, file: str) -> Asked:
    audit = placed(f"watermark/{file}.yaml", watermark.FOLDER, folder)
    plain: dict[str, Any] = audit.model_dump(mode="json", exclude_unset=True)
    how = plain["examples"]["photos"]["preprocess"]
    sets = [name for split in range(SPLITS) for name in (f"random{split}", f"rest{split}")]
    concepts = {f"random{split}": {"examples": f"random{split}", "against": f"rest{split}"} for split in range(SPLITS)}
    asked = Audit.model_validate(
        plain
        | {
            "examples": {name: {"images": str(folder / name), "preprocess": how} for name in sets}
            | {"targets": plain["examples"]["targets"]},
            "concepts": concepts,
            "gate": [{"concept": name, "target": "carton", "must": "not_matter"} for name in concepts],
        }
    )
    known = "by construction: the set was drawn at random from the same photographs as its reference set"
    return Asked(
        f"Photographs drawn at random: {network}",
        asked,
        [Fact(name, "carton", "not_influential", known) for name in concepts],
    )


def weightless(folder: Path) -> list[Asked]:
    """An input of the mortgage model that a hidden unit copies and no later layer reads."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = loans.divided(decisions()), loans.MODELS["loans-with-race"]
    seen = [row for row in rows if row["part"] == "train"]
    fitted = train(
        np.array([[row[column] for column in columns] for row in seen], dtype=float),
        np.array([row[APPROVED] for row in seen], dtype=float),
    )
    save(_with_ticket(fitted), folder / "model.onnx")
    generator = np.random.default_rng(loans.SEED)
    unseen = [[*(row[column] for column in columns), generator.normal()] for row in rows if row["part"] == "test"]
    table = np.array(unseen, np.float32)
    plain, targets = table[:150], table[450:750]
    raised = plain.copy()
    raised[:, -1] += 2
    others = table[150:450]
    sets = {
        "plain": plain,
        "raised": raised,
        "high": others[others[:, -1] > 0],
        "low": others[others[:, -1] <= 0],
        "targets": targets,
    }
    for name, values in sets.items():
        np.save(folder / f"{name}.npy", values)
    change = outputs(folder / "model.onnx", raised) - outputs(folder / "model.onnx", plain)
    known = (
        f"by construction: no layer reads it; adding 2 to it in {len(plain)} applications changes the logit by "
        f"{abs(change).max():.1g}"
    )
    audit = Audit.model_validate(
        {
            "model": str(folder / "model.onnx"),
            "examples": {name: {"arrays": str(folder / f"{name}.npy")} for name in sets}
            | {"raised": {"arrays": str(folder / "raised.npy"), "pairs_with": "plain"}},
            "concepts": {
                "ticket_in_pairs": {"examples": "raised", "against": "plain"},
                "ticket_of_others": {"examples": "high", "against": "low"},
            },
            "targets": {"approval": {"output": "logit", "examples": "targets"}},
            "layers": ["hidden1"],
            "gate": [
                {"concept": name, "target": "approval", "must": "not_matter"}
                for name in ("ticket_in_pairs", "ticket_of_others")
            ],
        }
    )
    facts = [Fact(concept, "approval", "not_influential", known) for concept in audit.concepts]
    note = (
        "Mortgage applications with a lottery ticket number as an extra input, which a unit of the audited layer "
        "copies and no later layer reads. *In pairs*: the same applications with another number. *Of others*: "
        "applications with high numbers against other applications with low ones, which differ randomly in everything "
        "else."
    )
    return [Asked("A feature without weight", audit, facts, note=note)]


def _with_ticket(model: LoanModel) -> Any:
    """The model with one more input, copied by a hidden unit that the next layer does not read."""
    first, second, *rest = model.perceptron.weights
    wider = np.zeros((first.shape[0] + 1, first.shape[1] + 1))
    wider[:-1, :-1], wider[-1, -1] = first, 1
    perceptron = Perceptron(
        [wider, np.vstack([second, np.zeros(second.shape[1])]), *rest],
        [np.append(model.perceptron.biases[0], 0), *model.perceptron.biases[1:]],
        model.perceptron.activation,
    )
    graph = Graph("loans with a ticket")
    mean = graph.weight("mean", np.append(model.mean, 0).astype(np.float32))
    scale = graph.weight("scale", np.append(model.scale, 1).astype(np.float32))
    x = graph.node("Div", [graph.node("Sub", ["applicant", mean], "centred"), scale], "standardised")
    perceptron.write(graph, x, "logit")
    return graph.model({"applicant": ["N", len(model.mean) + 1]}, {"logit": ["N", 1]})


def _pictures(audit: Audit, name: str) -> dict[str, NDArray[Any]]:
    declared = audit.examples[name]
    assert isinstance(declared, Images)
    return pictures(Path(declared.images), declared.preprocess)


def _stacked(inputs: Inputs) -> NDArray[np.float32]:
    return np.stack(list(inputs.values()))


CASES: Mapping[str, Callable[[Path], list[Asked]]] = {
    "watermark": watermarked,
    "patch": patched,
    "loans": lent,
    "text": turned,
    "stripes": striped,
    "nothing": nothing,
    "weightless": weightless,
    "tables": tables,
}
"""Name → builds the inputs in a folder and returns the audits with their truths."""
