"""The words of a report, one plain sentence each, as in `docs/glossary.md`."""

from __future__ import annotations

GLOSSARY = {
    "Association": (
        "Evidence from inside the model: moving the model's internal numbers towards a concept changes its answer, "
        "which shows that the model can use the concept, not that the concept causes the answer."
    ),
    "Attribution": (
        "A division of one answer of the model over the parts of its input, such as the pixels of a picture or the "
        "fields of an application, that says how much each part contributed."
    ),
    "Concept": (
        "Something that people have a word for, such as a watermark, an upside-down text or the race of an applicant, "
        "described to Caveat by a set of examples that show it."
    ),
    "Concept activation vector": (
        "The direction, inside the model at one layer, that leads from examples without the concept to examples with "
        "it; short: CAV."
    ),
    "Confounded": (
        "Said of a concept whose examples differ from the reference set in more than the concept, so that a result "
        "may be about that other difference."
    ),
    "Effect": ("How much the model's answer changes, on average, for one step from the reference set to the concept."),
    "Encoded": (
        "Said of a concept that can be recognised from the model's internal numbers at a layer, on examples that were "
        "held back, better than by guessing."
    ),
    "Finite step": (
        "A check of an association: the model's internal numbers are really moved from the reference set to the "
        "concept, and the rest of the model is run to see how the answer changes."
    ),
    "Gate": (
        "The list of conditions that the model has to meet, each with a pass, a fail or an inconclusive result, which "
        "decides whether a pipeline or an approval may go on."
    ),
    "Inconclusive": (
        "The finding when the evidence allows none of the other three; the report says why, and what would settle it, "
        "and the gate does not count it as a pass."
    ),
    "Influential": (
        "The finding when the whole interval of the change lies beyond the tolerance, so that a change too small to "
        "matter, or none at all, is an unlikely explanation."
    ),
    "Interval": (
        "The range in which the true figure probably lies, given that only a limited number of examples was looked "
        "at; with the default settings the range is meant to contain it in 95 of 100 audits."
    ),
    "Intervention": (
        "Evidence from an experiment: the model runs on the same examples without and with the concept, and the "
        "difference of its answers is measured."
    ),
    "Matched pairs": (
        "Examples that exist twice, once without and once with the concept, and are otherwise the same, such as a "
        "photograph and the same photograph under a watermark."
    ),
    "Not encoded": (
        "The finding when the concept cannot be recognised from the model's internal numbers at any layer that was "
        "looked at, which clears the model only where its answers for the concept's examples and for the reference set "
        "also differ by less than the tolerance."
    ),
    "Not influential": (
        "The finding when the whole interval of the change lies inside the tolerance, which shows that any influence "
        "is too small to matter; it is not just a lack of evidence."
    ),
    "p-value and correction": (
        "The p-value is the probability that chance alone would give an effect at least this large, and the "
        "correction raises it when a report makes many tests, because among many tests some look striking by chance."
    ),
    "Reference set": (
        "Examples without the concept that the concept's examples are compared with; they should differ from them in "
        "the concept and in nothing else."
    ),
    "Target": (
        "The one number of the model's answer that the audit asks about, such as the score of a class or of an "
        "approval."
    ),
    "TCAV score": (
        "The share of examples whose sensitivity to the concept is positive, which says how consistent the direction "
        "of the influence is and nothing about its size; TCAV is short for testing with concept activation vectors."
    ),
    "Tolerance": (
        "The largest change of the answer that you decide does not matter, usually given as a fraction of how much "
        "the answer varies from example to example."
    ),
}
