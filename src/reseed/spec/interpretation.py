"""What a study says about explaining and scoring. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from reseed.records import Spec
from reseed.spec.llm import BudgetSpec, EmbedderSpec, LocalSpec, ModelSpec, ServerSpec

LatentKind = Literal["reproducible", "partly", "orphan"]
"""Found in all independent other runs; in some; in none."""

KINDS: tuple[LatentKind, ...] = get_args(LatentKind)

RANDOM = "random"
"""Kind of a latent that means nothing, explained and scored as a control."""

PARTNER = "partner"
"""Kind of a latent that is explained only because it is the match of another one."""


class ClassifySpec(Spec):
    """How texts are put to a model. The defaults are those of Delphi."""

    batch: Annotated[int, Field(ge=1, le=50)] = 5
    """Texts in one prompt. Small models count badly: 1 is safest, and dearest."""
    shots: Annotated[int, Field(ge=0, le=3)] = 3
    """Worked examples before the question."""
    logprobs: bool = True
    """Whether the probabilities of 0 and 1 are asked for; they make grades out of answers."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Room for a reply; three tokens a text and ten for the rest are added."""


class DetectionSpec(ClassifySpec):
    """How detection asks."""


class FuzzingSpec(ClassifySpec):
    """What is marked, and how it is asked."""

    negatives: Literal["silent", "within"] = "silent"
    """Wrong tokens are marked in windows where the latent is silent (scorer `fuzzing`), or in those
    where it fires (`fuzzing_within`), which asks for the token and not for the topic."""
    marks: Literal["random", "copied"] = "random"
    """`random`: as many tokens as fire on average, rounded up, anywhere, as in the released
    pipeline. `copied`: in the places that are marked in some window where the latent fires, so that
    places and runs of marks do not give the answer away; places that are taken are moved."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Share of the largest activation of a window above which a token counts as active."""


SHOWN = 5
"""Texts in one question, one of them the intruder; the worked examples have as many."""


class IntruderSpec(Spec):
    """How many questions are asked of a latent, and what they show."""

    questions: Annotated[int, Field(ge=1)] = 20
    """At most; each takes another intruder and goes to the quantiles of activation in turn."""
    marked: bool = True
    """Whether active tokens are marked; in the intruder the places marked are those of a window
    where the latent fires, so that the places give nothing away."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    shots: Annotated[int, Field(ge=0, le=3)] = 3
    max_tokens: Annotated[int, Field(ge=1)] = 32


class SimulationSpec(Spec):
    """Which windows are simulated, and how it is asked."""

    windows: Annotated[int, Field(ge=2)] = 20
    """At most, half of them with the latent firing, over all quantiles; one a question."""
    shots: Annotated[int, Field(ge=0, le=2)] = 2


class InterventionSpec(Spec):
    """How hard is steered, and on what."""

    kl: Annotated[float, Field(gt=0)] = 0.5
    """KL(steered || clean) of the next token, in nats, mean over the positions of the prompts."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """By which share of `kl` it may be missed."""
    tries: Annotated[int, Field(ge=1)] = 60
    """Evaluations of the divergence before the search gives up."""
    prompts: Annotated[int, Field(ge=1)] = 20
    """At most: texts in which the latent is silent."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 16
    """First tokens of each window that are the prompt."""


class EmbeddingSpec(Spec):
    """How an explanation becomes a query."""

    instruction: str = ""
    """Put before the explanation, for embedders that were trained with one, e.g. Delphi's
    `"Instruct: Retrieve sentences that could be related to the explanation.\\nQuery:"`."""


class SurprisalSpec(Spec):
    """What stands before a text."""

    neutral: str = "various unrelated texts"
    """The explanation that says nothing, against which the other is held."""
    shots: bool = True
    """Whether worked examples stand before, the same for every latent."""


class RefineSpec(Spec):
    """How explanations are searched for. SPaR's: branch 3, keep 2, depth 3."""

    branch: Annotated[int, Field(ge=1)] = 3
    """Refinements asked for of each explanation."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Best of the new explanations that are refined further."""
    depth: Annotated[int, Field(ge=1)] = 3
    """Refinements of refinements, at most."""
    budget: Annotated[int, Field(ge=1)] = 400
    """Calls to models for one latent, scoring included; the judge's come on top."""
    order: Literal["breadth", "depth"] = "breadth"
    """Whole levels first, or the best branch to its end first."""
    enough: float | None = None
    """Score at which the search stops; none if left out."""
    shown: Annotated[int, Field(ge=1)] = 6
    """Examples in a critique, at most."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Of the refiner."""
    max_tokens: Annotated[int, Field(ge=16)] = 256
    """Of a refinement."""


class ExplainSpec(Spec):
    """What an explainer is shown and how it is asked. The defaults are those of Delphi."""

    examples: Annotated[int, Field(ge=1)] = 40
    """Windows shown, as evenly over the quantiles of activation as there are."""
    listed: bool = True
    """Whether marked tokens are listed with their strength from 1 to 10."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Tokens above this share of the largest activation of their window are marked."""
    ask_last: bool = False
    """Whether what is marked is repeated after the texts, with the question behind. Models of about
    a billion parameters then say what they see; else they copy the worked examples."""
    shots: Annotated[int, Field(ge=0, le=3)] = 3
    """Worked examples before the question."""
    reasoning: bool = False
    """Whether the model reasons before it answers."""
    top_logits: Annotated[int, Field(ge=0)] = 10
    """Tokens made likely that are shown, if they are given."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Annotated[int, Field(ge=1)] = 256
    seed: int = 0
    """Tells repeated questions at a temperature above 0 apart."""


Scorer = Literal[
    "detection",
    "fuzzing",
    "intruder",
    "embedding",
    "example_embedding",
    "surprisal",
    "simulation",
    "intervention",
]

SCORERS: tuple[Scorer, ...] = get_args(Scorer)

WITHOUT_EXPLANATION: tuple[Scorer, ...] = ("intruder", "example_embedding")

Control = Literal["shuffled", "random"]


class InterpretationSpec(Spec):
    """Which latents are explained, by whom, and how the explanations are scored."""

    explainer: ModelSpec
    """Explains, and judges unless there is a `judge`."""
    judge: ModelSpec | None = None
    """Answers the questions of the scorers."""
    embedder: EmbedderSpec | None = None
    """For `embedding`, `example_embedding` and the likeness of explanations in a family."""
    likelihood: LocalSpec | None = None
    """Gives the log-probabilities of texts, for `surprisal` and `intervention`."""
    budget: BudgetSpec = BudgetSpec()
    """What may be spent on each model, over the life of the study's journals."""
    per_kind: Annotated[int, Field(ge=1)] | None = None
    """Reproducible, partly reproducible and orphan latents each; left out, as many as a difference
    of .08 needs (docs/orphans.md)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides which latents and which of their examples."""
    explain: ExplainSpec = ExplainSpec()
    top_logits: bool = False
    """Whether the explainer also sees which tokens a latent makes likely; the subject must be a
    language model and the site as wide as its residual stream."""
    refine: RefineSpec | None = None
    """Searches for better explanations, judged by `detection`."""
    examples: Annotated[int, Field(ge=2)] = 20
    """Windows to score on of each class; of the silent ones half are hard."""
    scorers: Annotated[tuple[Scorer, ...], Field(min_length=1)] = (
        "detection",
        "fuzzing",
        "intruder",
    )
    controls: tuple[Control, ...] = ("shuffled", "random")
    """What stands beside every score: explanations of other latents, latents that mean nothing."""
    random_latents: Annotated[int, Field(ge=1)] = 20
    """Latents that mean nothing, at most."""
    dropping_tokens: Annotated[int, Field(ge=0)] = 0
    """Held-out tokens that go through the whole subject once for each of some 80 sets of dropped
    latents, to see what they are worth to its predictions; 0 measures their FVU alone."""
    detection: DetectionSpec = DetectionSpec()
    fuzzing: FuzzingSpec = FuzzingSpec(marks="copied")
    """Wrong marks are those of other windows: random ones betray latents that fire in runs of
    tokens."""
    intruder: IntruderSpec = IntruderSpec()
    simulation: SimulationSpec = SimulationSpec()
    intervention: InterventionSpec = InterventionSpec()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: Any) -> Any:
        """A model without `kind` is a server; an embedder or a likelihood is local."""
        if not isinstance(data, dict):
            return data
        out = dict(data)
        for name, kind in _KINDS.items():
            model = out.get(name)
            if isinstance(model, dict) and "kind" not in model:
                out[name] = {"kind": kind, **model}
        return out

    @model_validator(mode="after")
    def _complete(self) -> InterpretationSpec:
        lacks = {
            "embedder": (self.embedder, ("embedding", "example_embedding")),
            "likelihood": (self.likelihood, ("surprisal", "intervention")),
        }
        for table, (there, scorers) in lacks.items():
            wanted = [name for name in self.scorers if name in scorers]
            if wanted and there is None:
                raise ValueError(f"scorers has {wanted[0]!r}, which needs [interpretation.{table}]")
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError(f"scorers = {list(self.scorers)} names one twice")
        if "intruder" in self.scorers and self.examples < SHOWN - 1:
            raise ValueError(
                f"scorers has 'intruder', whose questions show {SHOWN - 1} windows in which a "
                f"latent fires; examples = {self.examples} are too few"
            )
        models = [self.explainer, *([self.judge] if self.judge else [])]
        priced = all(isinstance(m, ServerSpec) and m.prices is not None for m in models)
        if self.budget.max_cost is not None and not priced:
            raise ValueError("budget.max_cost needs prices of every model, or nothing has a cost")
        return self


_KINDS = {"explainer": "server", "judge": "server", "embedder": "local", "likelihood": "local"}
