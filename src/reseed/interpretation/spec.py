"""What a study says about explaining and scoring. Read without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from reseed.interpretation.client_spec import (
    BudgetSpec,
    EmbedderSpec,
    LocalSpec,
    ModelSpec,
    ServerSpec,
)
from reseed.interpretation.detection import DetectionSpec
from reseed.interpretation.explain import ExplainSpec
from reseed.interpretation.fuzzing import FuzzingSpec
from reseed.interpretation.intervention import InterventionSpec
from reseed.interpretation.intruder import SHOWN, IntruderSpec
from reseed.interpretation.refined import RefineSpec
from reseed.interpretation.simulation import SimulationSpec
from reseed.records import Spec

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
            one = out.get(name)
            if isinstance(one, dict) and "kind" not in one:
                out[name] = {"kind": kind, **one}
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
        priced = all(isinstance(one, ServerSpec) and one.prices is not None for one in models)
        if self.budget.max_cost is not None and not priced:
            raise ValueError("budget.max_cost needs prices of every model, or nothing has a cost")
        return self


_KINDS = {"explainer": "server", "judge": "server", "embedder": "local", "likelihood": "local"}


def explanations_name(group: str) -> str:
    """Name of the piece with the explanations of a group of runs."""
    return f"explanations/{group}"


def scores_name(group: str) -> str:
    """Name of the piece with the scores of a group of runs."""
    return f"scores/{group}"
