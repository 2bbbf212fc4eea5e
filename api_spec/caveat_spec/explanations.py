"""The registry of explanations: one row each. The mathematics is a function of the same name in the engine.

What its parts have to add up to is the row's `relation`, with the paper that it comes from; the engine checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from caveat_spec.base import Document, Integer, Name

Needs = Literal["gradient", "outputs"]
"""What an explanation asks of a model: derivatives, or nothing but its outputs."""


class OfLayer(Document):
    """Options of an explanation that can be asked of the input or of a layer."""

    layer: str = "input"
    """The tensor that is explained: `input`, or a layer of the model."""


Reference = Literal["zero", "mean", "blurred", "typical"] | float
"""What an input is compared with, or what replaces a removed part: zero, the example's own mean for each channel, the
example blurred, a typical example (the mean of the examples' set, the most frequent category), or a number."""
Atoms = Literal["positions", "channels", "neurons"]
"""What a layer is taken apart into."""
Share = Annotated[float, Field(gt=0, lt=1)]
Draws = Annotated[Integer, Field(ge=2, le=4096)]
Seed = Annotated[Integer, Field(ge=0)]


class NoOptions(Document):
    """An explanation without options."""


class ReferenceOptions(Document):
    """Options of explanations that compare with a reference."""

    reference: Reference = "zero"


class SmoothGradOptions(OfLayer):
    """Options of `smoothgrad`."""

    samples: Draws = 32
    """Noisy copies of the example."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.15
    """Their standard deviation, as a share of the difference between the example's largest and smallest number, or
    between those of each column over examples of a table."""
    seed: Seed = 0


class IntegratedGradientsOptions(ReferenceOptions):
    """Options of `integrated_gradients`, whose path begins at the reference."""

    tolerance: Share = 0.01
    """The share of the difference of scores that the parts may miss."""
    most: Draws = 512
    """Gradients that may be taken to get there."""


class OcclusionOptions(Document):
    """Options of `occlusion`."""

    window: Annotated[Integer, Field(ge=1)] | None = None
    """Pixels on each side, tokens, or columns; by default a fifteenth of a picture's side, and one token or column."""
    stride: Annotated[Integer, Field(ge=1)] | None = None
    """From one window to the next; by default, and at most, the window itself."""
    fill: Reference | None = None
    """What is put in a window; by default `zero`, and `typical` for columns."""
    compare: bool = True
    """Whether the map is made with a second fill too, and the two are compared; not for columns."""


class ShapleyOptions(Document):
    """Options of `shapley`."""

    permutations: Draws = 32
    """Orders in which the parts are put in place; drawn in pairs, each with its reverse."""
    regions: Annotated[Integer, Field(ge=1, le=32)] = 7
    """Regions along each side of a picture."""
    fill: Reference | None = None
    """What stands in for absent parts; by default `zero`, and `typical` for columns."""
    seed: Seed = 0


class LinearOptions(Document):
    """Options of `linear`."""

    layer: str
    """The layer that is taken apart."""
    atoms: Atoms = "channels"
    confirm: Annotated[Integer, Field(ge=0, le=64)] = 8
    """The largest atoms that are really removed, beside 50 others drawn at random; 0 to trust the derivative."""
    pooling: Literal["exact", "relaxed", "relaxed_and_blurred"] = "exact"
    """`relaxed` shares a max pooling's derivative by activation, for smoother pictures; it is not the model's."""
    seed: Seed = 0


class MultiClassOptions(OfLayer):
    """Options of `multi_class`."""

    classes: Annotated[Integer, Field(ge=3, le=64)] = 20
    """The highest classes, of which two groups are made."""


class LayerToLayerOptions(Document):
    """Options of `layer_to_layer`."""

    layer: str
    """The lower layer, whose atoms are shown."""
    upper: str
    """The upper layer, whose largest atoms they are shown for."""
    atoms: Literal["positions", "channels"] = "positions"
    """What both layers are taken apart into."""
    most: Annotated[Integer, Field(ge=1, le=196)] = 49
    """Atoms of the upper layer, the largest first."""


class PathOptions(Document):
    """Options of `path_dependence`."""

    layer: str
    """The layer that is taken apart."""
    atoms: Literal["positions", "channels"] = "channels"
    paths: Annotated[Integer, Field(ge=2, le=64)] = 12
    steps: Annotated[Integer, Field(ge=4, le=256)] = 32
    """Gradients along each path."""
    seed: Seed = 0


class CavOptions(Document):
    """Options of `cav_attribution`."""

    concept: str
    """A concept of the audit."""
    layer: str
    """The layer whose CAV it is."""
    at: Literal["layer", "input"] = "layer"
    """`layer`: each position's part of the concept score. `input`: gradient x input of that score."""
    reduce: Literal["mean", "flatten"] = "mean"
    """`mean`: one direction for all positions, for a concept that may be anywhere. `flatten`: one of its own for each
    position, for a concept that is always in the same place."""


class ActivationOptions(Document):
    """Options of `activation`."""

    layer: str
    """The layer whose channels are shown, or whose neurons where it has no positions."""


class ActivationNormOptions(Document):
    """Options of `activation_norm`."""

    layer: str
    """The layer whose places are shown."""
    atoms: Literal["positions"] = "positions"


MOST_COMPONENTS = 3
"""As many as a colour has parts."""


class PrincipalComponentsOptions(Document):
    """Options of `principal_components`."""

    layer: str
    """The layer whose places are shown."""
    over: Annotated[str, Field(min_length=1)] | None = None
    """An example set: its components, and so the colours, are the same for every example; by default each example has
    its own."""
    atoms: Literal["components"] = "components"


class ConceptScoreOptions(Document):
    """Options of `concept_score`."""

    concept: str
    """A concept of the audit."""
    layer: str
    """The layer whose CAV it is."""
    reduce: Literal["mean", "flatten"] = "mean"
    """As for `cav_attribution`."""
    atoms: Literal["concepts"] = "concepts"


FOLDER = "folder"
"""The labels of pictures that lie in a folder for each class."""


class InfluenceOptions(Document):
    """Options of `influence`."""

    training: Annotated[str, Field(min_length=1)]
    """The example set that the model's last layer was fitted on."""
    labels: Annotated[str, Field(min_length=1)]
    """Its true classes: a column of a table, by number or name, or `folder` for pictures in a folder for each class."""
    decay: Annotated[float, Field(ge=0)] | None = None
    """The weight decay λ in the loss's λ/2·|W|²; by default it is told from the weights."""
    on: Literal["target", "own_label"] = "target"
    """`target`: on the number that is explained. `own_label`: each example's on log p of its own label, the largest of
    which are often wrong labels; it is about the set, and the same at every example that is explained."""
    atoms: Literal["examples"] = "examples"


class DiscoverOptions(Document):
    """Options of `discover`."""

    layer: str
    """The layer whose directions are proposed: `input` for the columns of a table."""
    examples: Annotated[str, Field(min_length=1)]
    """The example set that directions are found in one half of, and tested in the other."""
    labels: str | None = None
    """Its true classes, within which effects are tested: a column of a table, or `folder` for pictures in a folder for
    each class. Without them, what makes up the class itself is proposed too."""
    known_at: str = "input"
    """The layer at which the audit's concepts are scored, so that their part is taken out: one before the model mixes
    them with anything else."""
    proposals: Annotated[Integer, Field(ge=1, le=64)] = 10
    """Directions that are tested."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.2
    """What an effect has to exceed, in standard deviations of the target's number for one of the direction."""
    atoms: Literal["proposals"] = "proposals"


class BagOptions(Document):
    """Options of `bag_of_features`."""

    layer: str
    """The layer before the mean over positions."""
    atoms: Literal["positions"] = "positions"


MOST_PATCHES = 8
"""Patches in a row: as many as a person compares."""
PATCH_ROWS = 2
"""Rows of informative patches, where labels tell examples of the class from others."""


def _few_patches(count: int) -> int:
    if count > MOST_PATCHES:
        raise ValueError(f"{count} patches are more than anybody compares at a glance; the most is {MOST_PATCHES}")
    return count


class InformativePatchesOptions(Document):
    """Options of `informative_patches`."""

    layer: str
    """The layer before the mean over positions, whose places are patches."""
    examples: Annotated[str, Field(min_length=1)]
    """The example set that patches are from, one of each example."""
    labels: Annotated[str, Field(min_length=1)] | None = None
    """Its true classes: a column of a table, or `folder` for pictures in a folder for each class. With them the class's
    own examples have one row of patches and those of other classes, which show its errors, another."""
    count: Annotated[
        Integer, Field(ge=1, json_schema_extra={"maximum": MOST_PATCHES}), AfterValidator(_few_patches)
    ] = 6
    """Patches in a row."""
    atoms: Literal["patches"] = "patches"


MOST_GROUPS = 6
MOST_SHARED_GROUPS = 32
"""The same over an example set, of which each example shows some."""
UPPER_GROUPS = "ABCDEF"
"""The names of an upper layer's groups, so that nobody takes them for those of the lower one."""


def _comparable(count: int, most: int = MOST_GROUPS) -> int:
    """A number of groups that a person can compare."""
    if count > most:
        raise ValueError(f"{count} groups are more than anybody compares at a glance; the most is {most}")
    return count


class GroupsOptions(Document):
    """Options of `groups`."""

    layer: str
    """The layer whose channels are put into groups."""
    count: Annotated[Integer, Field(ge=2, json_schema_extra={"maximum": MOST_SHARED_GROUPS})] = MOST_GROUPS
    """How many groups there are: at most 6, or with `over` 32, of which those with the largest effects are shown."""
    by: Literal["activations", "attributions"] = "activations"
    """What is factorised: what the channels are, or what each does for the target."""
    over: Annotated[str, Field(min_length=1)] | None = None
    """An example set: its groups are the same for every example, and by default each example has its own."""
    atoms: Literal["groups"] = "groups"

    @model_validator(mode="after")
    def _few_or_shared(self) -> Self:
        _comparable(self.count, MOST_GROUPS if self.over is None else MOST_SHARED_GROUPS)
        if self.over is not None and self.by != "activations":
            raise ValueError("groups over an example set are of activations; leave 'by' out, or 'over'")
        return self


class CompatibleGroupsOptions(Document):
    """Options of `compatible_groups`."""

    layer: str
    """The lower layer, whose channels are put into groups that fit those of the upper one; `auto` is the audit's layer
    before that."""
    upper: str = "auto"
    """The upper layer; `auto` is the deepest of the audit."""
    count: Annotated[Integer, Field(ge=2, json_schema_extra={"maximum": MOST_GROUPS}), AfterValidator(_comparable)] = (
        MOST_GROUPS
    )
    """How many groups each layer has."""
    atoms: Literal["groups"] = "groups"


MOST_VISUALISED = 16
"""Pictures that are made in one run."""


class VisualisationOptions(Document):
    """What is made pictures of, and how; these are no part of an audit."""

    layer: str = "auto"
    """A tensor, as `caveat layers` lists it; `auto` is the deepest layer of the audit."""
    channels: list[Annotated[Integer, Field(ge=0)]] = Field(default_factory=list)
    """Numbers of channels; of a layer without positions, of its neurons."""
    concepts: list[Name] = Field(default_factory=list)
    like: list[str] = Field(default_factory=list)
    """Names of examples: what the layer has at the place where it is strongest in each of them."""
    examples: Name | None = None
    """The set of examples to compare with; the first target's when left out."""
    centre: bool = False
    """Whether an atom is raised at the middle of the layer alone, and not on average over its positions."""
    steps: Annotated[Integer, Field(ge=16, le=4096)] = 256
    side: Annotated[Integer, Field(ge=16, le=1024)] = 128
    """Pixels on the longer side, where the model takes others than its own."""
    seed: Annotated[Integer, Field(ge=0)] = 0

    @property
    def count(self) -> int:
        """How many pictures that are."""
        return len(self.channels) + len(self.concepts) + len(self.like)

    @model_validator(mode="after")
    def _few(self) -> Self:
        if not 1 <= self.count <= MOST_VISUALISED:
            raise ValueError(f"there are 1 to {MOST_VISUALISED} pictures in one run, and {self.count} were asked for")
        return self


@dataclass(frozen=True)
class ExplanationEntry:
    """One explanation that an audit can show."""

    name: str
    summary: str
    """What it answers, in one sentence."""
    module: str
    """Where its function is, under the explanation's name; imported when an audit runs, never by the API."""
    needs: Needs
    relation: str
    """What its parts add up to, or how they relate to the model, and where that is from."""
    options: type[Document] = OfLayer
    rules: Literal["vjp", "relevance", "rescale"] = "vjp"
    """The table of backward rules that has to cover the model's operators: that of derivatives, or one of its own."""
    fewest_classes: int = 1
    """Classes among which the target's has to be."""
    calculates: bool = False
    """Whether it calculates with the input itself, and not with derivatives or outputs alone: texts have no numbers."""
    title: str = ""
    """What a reader calls it; its name where left out."""
    unit: str = ""
    """Of its numbers, where that is not the target's."""
    most: str = ""
    """What a sentence says of the atom with the largest number; that it raises or lowers the target where left out."""
    presentation: str = ""
    """How it is drawn where an element does not say; what suits its atoms where left out."""
    of_features: bool = False
    """Whether its atoms are a layer's channels, or its neurons where it has no positions."""
    sanity: bool = True
    """Whether it is held against models with random weights: not where its numbers are the model's own, such as an
    activation."""

    @property
    def words(self) -> str:
        """Its title, or its name in words."""
        return self.title or self.name.replace("_", " ").capitalize()


EXPLANATIONS = (
    ExplanationEntry(
        "saliency",
        "Shows where a small change of the input would change the target most.",
        module="caveat_worker.engine.explanations.saliency",
        needs="gradient",
        relation="|∂S/∂x|, the largest over colours (Simonyan et al. 2013)",
    ),
    ExplanationEntry(
        "gradient_x_input",
        "Multiplies each input by the target's derivative there: its share, if the model was linear.",
        module="caveat_worker.engine.explanations.gradient_x_input",
        needs="gradient",
        relation="Σ x·∂S/∂x + Σ b·∂S/∂b = S for piecewise linear models with biases b (Shrikumar et al. 2016)",
    ),
    ExplanationEntry(
        "smoothgrad",
        "Averages the target's derivative over noisy copies of the example, with its standard error.",
        module="caveat_worker.engine.explanations.smoothgrad",
        needs="gradient",
        relation="E ∂S/∂x at x + σε; without noise it is ∂S/∂x (Smilkov et al. 2017)",
        options=SmoothGradOptions,
        calculates=True,
        title="SmoothGrad",
    ),
    ExplanationEntry(
        "lrp",
        "Passes the score back layer by layer, to each input by its share of the sums (ε-LRP).",
        module="caveat_worker.engine.explanations.lrp",
        needs="gradient",
        relation="Σ R + the biases' relevance = S, with f(z) / (z ± ε) in place of f'(z) (Bach et al. 2015; Ancona et "
        "al. 2018, eq. 5)",
        options=NoOptions,
        rules="relevance",
        calculates=True,
        title="ε-LRP",
    ),
    ExplanationEntry(
        "deeplift_rescale",
        "Passes the difference from a reference back layer by layer (DeepLIFT, rescale rule).",
        module="caveat_worker.engine.explanations.deeplift_rescale",
        needs="gradient",
        relation="Σ (x - x̄)·m = S(x) - S(x̄) exactly (Shrikumar et al. 2017, eq. 14)",
        options=ReferenceOptions,
        rules="rescale",
        calculates=True,
        title="DeepLIFT Rescale",
    ),
    ExplanationEntry(
        "integrated_gradients",
        "Divides the difference between an example's score and a reference's along the straight path between them.",
        module="caveat_worker.engine.explanations.integrated_gradients",
        needs="gradient",
        relation="Σ (x - x̄)·∫∂S/∂x = S(x) - S(x̄) within the tolerance (Sundararajan et al. 2017)",
        options=IntegratedGradientsOptions,
        calculates=True,
    ),
    ExplanationEntry(
        "occlusion",
        "Measures how the target falls when a part of the example is covered.",
        module="caveat_worker.engine.explanations.occlusion",
        needs="outputs",
        relation="S(x) - S(x with the window filled), averaged over overlaps (Zeiler and Fergus 2014)",
        options=OcclusionOptions,
    ),
    ExplanationEntry(
        "shapley",
        "Divides the difference between an example's score and a reference's fairly among its parts.",
        module="caveat_worker.engine.explanations.shapley",
        needs="outputs",
        relation="Σ φ = S(x) - S(x̄) exactly; φ is the mean over all orders of the parts (Shapley 1953; Castro 2009)",
        options=ShapleyOptions,
        title="Shapley values",
    ),
    ExplanationEntry(
        "linear",
        "Takes a layer apart into positions, channels or neurons, and removes the largest to confirm their parts.",
        module="caveat_worker.engine.explanations.linear",
        needs="gradient",
        relation="a·∂S/∂a: positions and channels have the same sum; exact behind the layer if that is linear "
        "(Olah et al. 2018)",
        options=LinearOptions,
        title="Linear attribution",
    ),
    ExplanationEntry(
        "multi_class",
        "Shows which of two groups of the highest classes each position speaks for.",
        module="caveat_worker.engine.explanations.multi_class",
        needs="gradient",
        relation="a·∂S_k/∂a for each class k, linear in k; two non-negative factors of it (Olah et al. 2018)",
        options=MultiClassOptions,
        fewest_classes=3,
        title="Classes side by side",
    ),
    ExplanationEntry(
        "layer_to_layer",
        "Shows what a layer's positions or channels do for those of a later layer.",
        module="caveat_worker.engine.explanations.layer_to_layer",
        needs="gradient",
        relation="a·∂|h|/∂a at positions, a·∂Σh/∂a at channels; between linear layers Σ = |h| less the biases' part "
        "(Olah et al. 2018)",
        options=LayerToLayerOptions,
    ),
    ExplanationEntry(
        "path_dependence",
        "Integrates a layer's attribution along random paths, and shows how much the paths differ.",
        module="caveat_worker.engine.explanations.path_dependence",
        needs="gradient",
        relation="Σ = S(a) - S(0) along every path; of a linear model all paths say the same (Friedman 2004; Olah et "
        "al. 2018)",
        options=PathOptions,
    ),
    ExplanationEntry(
        "cav_attribution",
        "Shows where in this example a layer, or the input, has a concept's direction.",
        module="caveat_worker.engine.explanations.cav_attribution",
        needs="outputs",
        relation="Σ (h - h̄)·v = the concept score, exactly at the layer; x·∂(h·v)/∂x at the input; v is the CAV "
        "that is fitted without this example (Kim et al. 2018; De Santis et al. 2024)",
        options=CavOptions,
        title="CAV attribution",
    ),
    ExplanationEntry(
        "activation",
        "Shows the features that are most active in an example, and by icons what each of them looks for.",
        module="caveat_worker.engine.explanations.activation",
        needs="outputs",
        relation="the largest activation over positions; icons are examples of a set in the order of the same number "
        "(Olah et al. 2017; Olah et al. 2018)",
        options=ActivationOptions,
        unit="activation",
        most="is the most active",
        presentation="icons",
        of_features=True,
        sanity=False,
    ),
    ExplanationEntry(
        "activation_norm",
        "Shows how strongly each place of a layer responds, and in an activation grid what each of them is like.",
        module="caveat_worker.engine.explanations.activation_norm",
        needs="outputs",
        relation="|h_p|, the norm of a place's activations; its patch is the place of a set's examples whose "
        "activations have the largest cosine with h_p (Olah et al. 2018)",
        options=ActivationNormOptions,
        unit="activation",
        most="is most active",
        presentation="patches",
        sanity=False,
    ),
    ExplanationEntry(
        "principal_components",
        "Colours the places of a layer by the three directions along which their activations differ most.",
        module="caveat_worker.engine.explanations.principal_components",
        needs="outputs",
        relation="(h_p - h̄)·v_k for the eigenvectors v_k of the places' covariance, as red, green and blue; λ_k / Σ λ "
        "of the variance is in each (Olah et al. 2018)",
        options=PrincipalComponentsOptions,
        unit="of the variance",
        presentation="colours",
        sanity=False,
    ),
    ExplanationEntry(
        "concept_score",
        "Shows how far an example lies towards a concept, and by icons the order of a set's examples.",
        module="caveat_worker.engine.explanations.concept_score",
        needs="outputs",
        relation="(h - h̄)·v = Σ of `cav_attribution`; v is the CAV that is fitted without this example (Kim et al. "
        "2018, section 4.2)",
        options=ConceptScoreOptions,
        most="has the score",
        presentation="icons",
    ),
    ExplanationEntry(
        "groups",
        "Puts a layer's channels into a few groups that act together, with the effect and the place of each.",
        module="caveat_worker.engine.explanations.groups",
        needs="gradient",
        relation="Σ effects + what no group has = Σ a·∂S/∂a exactly; effect k = Σ (u_k v_k)·∂S/∂a for A ≈ UV "
        "(Olah et al. 2018)",
        options=GroupsOptions,
        presentation="icons",
        sanity=False,
    ),
    ExplanationEntry(
        "compatible_groups",
        "Puts the channels of two layers into groups that fit, and shows what the earlier do through the later ones.",
        module="caveat_worker.engine.explanations.compatible_groups",
        needs="gradient",
        relation="Σ effects + what no group has = Σ a·∂S/∂a exactly; flow = what of an effect passes an upper group's "
        "share of ∂S/∂h; channels are split by |a·∂|h_k|/∂a| before they are factorised (Olah et al. 2018)",
        options=CompatibleGroupsOptions,
        presentation="flow",
        sanity=False,
    ),
    ExplanationEntry(
        "discover",
        "Proposes directions of a layer that move the target beyond labels and named concepts, tested on examples that "
        "had no part in finding them.",
        module="caveat_worker.engine.explanations.discover",
        needs="outputs",
        relation="the slope of S by one sd of a direction exceeds the margin, within labels and at equal scores of "
        "named concepts, by permuted residuals on the other half (Freedman and Lane 1983) at a controlled false "
        "discovery rate (Benjamini and Hochberg 1995)",
        options=DiscoverOptions,
        unit="sd",
        presentation="icons",
        sanity=False,
    ),
    ExplanationEntry(
        "bag_of_features",
        "Shows what each place of a layer says by itself, for models whose score is the mean of that.",
        module="caveat_worker.engine.explanations.bag_of_features",
        needs="outputs",
        relation="mean of S(h_p at every place) = S exactly behind a mean over positions and an affine layer (Brendel "
        "and Bethge 2019)",
        options=BagOptions,
        title="Bag of local features",
    ),
    ExplanationEntry(
        "informative_patches",
        "Shows the patches of a set's examples that speak most for the target by themselves: in its class, and in "
        "others, where they mislead.",
        module="caveat_worker.engine.explanations.informative_patches",
        needs="gradient",
        relation="the largest w·h_p + b of each example, w = Σ_p ∂S/∂h_p; its mean over places is S at every example "
        "(Brendel and Bethge 2019, fig. 3)",
        options=InformativePatchesOptions,
        title="Most informative patches",
        presentation="icons",
        sanity=False,
    ),
    ExplanationEntry(
        "influence",
        "Shows which examples of a labelled set speak for the target's number, and which against it.",
        module="caveat_worker.engine.explanations.influence",
        needs="gradient",
        relation="S less S with the last layer fitted without the example: by Newton's method where it is small "
        "(Pregibon 1981), else to first order, (y - p)·(H⁻¹∇S)/n; `on: own_label` has log p of each example's own "
        "label in the place of S (Koh and Liang 2017)",
        options=InfluenceOptions,
        sanity=False,
    ),
)


def explanations() -> dict[str, ExplanationEntry]:
    """Every explanation by its name."""
    return {entry.name: entry for entry in EXPLANATIONS}
