"""The captions experiment (Kim et al. 2018, section 4.3): whether networks read captions or pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from bench.validation.ground_truth import Answers, Asked, Fact, Measured, answers, middle_sd
from bench.validation.networks import outputs
from caveat_spec.audit import Audit
from caveat_spec.results import ConceptTest
from caveat_worker.engine.base.arrays import Float64Array
from examples.captions.build import SEEDS, WORDS, WRONG_CAPTIONS, build
from examples.captions.pictures import captioned
from examples.captions.question import question

TOLERANCE = 0.5
"""For the gate lines, in standard deviations of a class's logit over its own captioned pictures."""
QUICK = {"runs": 50, "permutations": 199, "bootstrap": 199, "pictures": "ids"}


@dataclass(frozen=True)
class Network:
    """One network's truth and its audit's figures; effects in sd and scores are means over the classes."""

    seed: int
    name: str
    without_captions: float
    """Accuracy on pictures without a caption: the truth about pictures."""
    follows_caption: float
    """How often a picture under another class's caption is called what the caption says: the truth about captions."""
    image: float
    caption: float
    image_score: float
    caption_score: float
    null: float
    """The largest effect of the random concept, in size."""
    answers: Answers


def experiment(folder: Path, seeds: Sequence[int] = SEEDS) -> list[Network]:
    """Trains the networks of each seed, measures what is true of them, and audits them."""
    build(folder, range(min(seeds), max(seeds) + 1))
    return [network(folder / f"seed{seed}", seed, name) for seed in seeds for name in WRONG_CAPTIONS]


def network(folder: Path, seed: int, name: str) -> Network:
    """One network's audit beside its truth."""
    asked = question(folder, name)
    lines = [
        {"concept": concept, "target": word, "must": "not_matter", "tolerance": TOLERANCE}
        for word in WORDS
        for concept in (f"caption-{word}", "null")
    ]
    plain = asked.model_dump(mode="json", exclude_unset=True)
    audit = Audit.model_validate(plain | {"gate": lines, "method": QUICK})
    truth = json.loads((folder / "truth.json").read_text())[name]["accuracy_without_captions"]
    change, follows = _swapped(folder, name)
    facts = [_caption_fact(word, change[word]) for word in WORDS]
    known = "by construction: pictures drawn like those of its reference set"
    facts += [Fact("null", word, "not_influential", known) for word in WORDS]
    of = answers(Asked(f"Captions on pictures: network *{name}*, {len(SEEDS)} seeds", audit, facts))
    tests = {(test.concept, test.target): test for test in of.report.associations}

    def mean(kind: str, figure: str) -> float:
        found = [tests[f"{kind}-{word}", word] for word in WORDS]
        return float(np.mean([one.effect.in_sd if figure == "effect" else _score(one) for one in found]))

    return Network(
        seed,
        name,
        truth,
        follows,
        image=mean("image", "effect"),
        caption=mean("caption", "effect"),
        image_score=mean("image", "score"),
        caption_score=mean("caption", "score"),
        null=max(abs(tests["null", word].effect.in_sd) for word in WORDS),
        answers=of,
    )


def _score(test: ConceptTest) -> float:
    assert test.score is not None
    return test.score.value


def _swapped(folder: Path, name: str) -> tuple[dict[str, Measured], float]:
    """Per class, what its caption changes in the logit in place of the picture's own; how often the caption wins."""
    model = folder / f"{name}.onnx"
    change, wins = {}, []
    own = {word: _read(folder / f"target-{word}") for word in WORDS}
    before = {word: _logits(model, pictures) for word, pictures in own.items()}
    for index, word in enumerate(WORDS):
        others = [other for other in WORDS if other != word]
        after = {other: _logits(model, captioned(own[other], [word] * len(own[other]))) for other in others}
        moved = np.concatenate([after[other][:, index] - before[other][:, index] for other in others])
        sd = middle_sd(before[word][:, index])
        change[word] = Measured(float(moved.mean()) / sd, float(moved.std(ddof=1)) / sd / len(moved) ** 0.5)
        wins += [after[other].argmax(1) == index for other in others]
    return change, float(np.mean(wins))


def _caption_fact(word: str, measured: Measured) -> Fact:
    known = f"other classes' pictures under the caption *{word}* in place of their own change the logit by {{}}"
    return measured.fact(f"caption-{word}", word, TOLERANCE, known)


def _read(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def _logits(model: Path, pictures: np.ndarray) -> Float64Array:
    return outputs(model, (pictures.transpose(0, 3, 1, 2) / 255).astype(np.float32))


# -- The order of the networks


def orders(networks: Sequence[Network]) -> dict[str, list[float]]:
    """For each seed, rank correlations over the networks between an audit's figure and the truth."""
    found: dict[str, list[float]] = {"image": [], "caption": [], "lead": [], "image score": [], "caption score": []}
    for seed in sorted({one.seed for one in networks}):
        of = [one for one in networks if one.seed == seed]
        pictures, captions = [one.without_captions for one in of], [one.follows_caption for one in of]
        found["image"].append(_rank(pictures, [one.image for one in of]))
        found["caption"].append(_rank(captions, [one.caption for one in of]))
        found["lead"].append(_rank(pictures, [one.image - one.caption for one in of]))
        found["image score"].append(_rank(pictures, [one.image_score for one in of]))
        found["caption score"].append(_rank(captions, [one.caption_score for one in of]))
    return found


def _rank(truth: Sequence[float], reported: Sequence[float]) -> float:
    if len(set(reported)) == 1:
        return float("nan")
    return float(spearmanr(truth, reported).statistic)


def leads(one: Network) -> bool:
    """Whether the audit finds that captions matter more than pictures to this network."""
    return one.caption > one.image


def caption_section(networks: Sequence[Network]) -> str:
    """The page's part about captions."""
    rows = [
        f"| {one.seed} | {one.name} | {one.without_captions:.2f} | {one.follows_caption:.2f} | {one.image:+.2f} "
        f"| {one.caption:+.2f} | {one.image_score:.2f} | {one.caption_score:.2f} | {one.null:.2f} |"
        for one in networks
    ]
    correlations = [
        f"| {what} | {' | '.join(f'{each:+.1f}' for each in each_seed)} | {np.nanmean(each_seed):+.2f} |"
        for what, each_seed in orders(networks).items()
    ]
    seeds = sorted({one.seed for one in networks})
    return "\n".join(
        [
            CAPTIONS,
            "| seed | network | accuracy without captions | follows the caption | image: effect (sd) "
            "| caption: effect (sd) | image: score | caption: score | random: largest effect (sd) |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            "Rank correlation of each figure with its truth over the four networks of a seed (*lead*: image less "
            "caption, with accuracy without captions); `nan` where a score is the same for all four.",
            "",
            f"| figure | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |",
            f"| --- | {' | '.join('---' for _ in seeds)} | --- |",
            *correlations,
            "",
            _where_it_differs(networks),
            "",
        ]
    )


def _where_it_differs(networks: Sequence[Network]) -> str:
    """Where audits order the networks differently from the truth."""
    image = {(one.seed, one.name): one.image for one in networks}
    truth = {(one.seed, one.name): one.without_captions for one in networks}
    seeds = sorted({one.seed for one in networks})
    reversed_ = sum(image[seed, "p30"] > image[seed, "p0"] and truth[seed, "p30"] < truth[seed, "p0"] for seed in seeds)
    led = sum(leads(one) == (one.name in ("p0", "p30")) for one in networks)
    return (
        f"In {led} of {len(networks)} networks the larger effect, of the caption or of the picture, is the one that "
        f"training implies. *Where truth and audit differ*: by the effect of pictures alone, *p30* ranks above *p0* in "
        f"{reversed_} of {len(seeds)} seeds, although its accuracy without captions is lower; and the scores of "
        "pictures are 1 nearly everywhere, so they rank nothing."
    )


CAPTIONS = """### Captions on pictures

Networks for three classes of pictures. The class's word is written on the pictures never (*none*) or always (*p0*), or
is replaced by a word of no class in 30 % of pictures (*p30*) or in all (*p100*). Accuracy on pictures without captions
shows how much a network relies on the pictures; how often it follows the caption of another class shows how much it
relies on captions. The audit is at `hidden1`, because after `hidden2` the network is linear. In the pictures of the
caption concept all other pixels are shuffled, as in the paper.
"""
