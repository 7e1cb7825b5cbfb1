"""Everything that a `study.toml` can say. Read without torch."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from reseed.errors import SpecError
from reseed.records import Spec
from reseed.sae.architectures import SAESpec
from reseed.seeds import digest
from reseed.spec.analysis import (
    ActivationSpec,
    CalibrationSpec,
    EvidenceSpec,
    MatchingSpec,
    StabilitySpec,
    plain,
    to_read,
)
from reseed.spec.interpretation import InterpretationSpec
from reseed.spec.refusals import read_spec
from reseed.spec.subject import LanguageModelSpec, ModuleSpec, SubjectSpec, TextSpec
from reseed.spec.training import Control, ControlsSpec, RunSpec, TrainingSpec, check_held
from reseed.spec.variants import VariantSpec, check_variants

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]


_LARGEST_FILE = 2**16
_LONGEST_KEY = 100
"""Above these a file is no study, and the parser takes minutes over it."""


class SeedsSpec(Spec):
    """The two seeds of a run; every init seed is combined with every data seed."""

    init: Seeds = (0, 1, 2)
    """Decide the weights that training starts from."""
    data: Seeds = (0,)
    """Decide the order of the activations."""

    @model_validator(mode="after")
    def _different(self) -> SeedsSpec:
        for name, seeds in (("init", self.init), ("data", self.data)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{name} = {list(seeds)} names a seed twice; it is the same run")
        return self


class StudySpec(Spec):
    """Everything that a `study.toml` can say."""

    subject: SubjectSpec
    text: TextSpec | None = None
    activations: ActivationSpec
    sae: Annotated[tuple[SAESpec, ...], Field(min_length=1)]
    """Each `[[sae]]` is trained at every site that it can be trained at, with every seed."""
    seeds: SeedsSpec = SeedsSpec()
    training: TrainingSpec
    matching: MatchingSpec = MatchingSpec()
    evidence: EvidenceSpec = EvidenceSpec()
    stability: StabilitySpec = StabilitySpec()
    controls: ControlsSpec = ControlsSpec()
    variant: tuple[VariantSpec, ...] = ()
    """Each `[[variant]]` is another version of the subject; `reseed survive` reads them."""
    interpretation: InterpretationSpec | None = None
    """Read by `reseed explain` and `reseed score` only."""
    calibration: CalibrationSpec = CalibrationSpec()
    """Read by `reseed calibrate` only."""

    @model_validator(mode="before")
    @classmethod
    def _default_kind(cls, data: Any) -> Any:
        subject = data.get("subject") if isinstance(data, dict) else None
        if isinstance(subject, dict) and "kind" not in subject:
            return data | {"subject": {"kind": "language_model", **subject}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> StudySpec:
        reads_text = isinstance(self.subject, LanguageModelSpec)
        if reads_text and self.text is None:
            raise ValueError("a language model needs a [text] table with at least `source`")
        if not reads_text and self.text is not None:
            raise ValueError(
                f"a subject of kind {self.subject.kind!r} reads no [text]; take it out"
            )
        if self.activations.cache is not None and not reads_text:
            raise ValueError(
                f"activations.cache holds what language models read; a subject of kind "
                f"{self.subject.kind!r} has none of it, so take it out"
            )
        if len({_told_by(sae) for sae in self.sae}) < len(self.sae):
            raise ValueError("two [[sae]] tables are the same; they would be the same runs")
        if self.training.tokens < 10 * self.training.batch:
            raise ValueError(
                f"training.tokens = {self.training.tokens} makes fewer than 10 steps of "
                f"{self.training.batch}; train longer or take a smaller batch"
            )
        free = [sae.label for sae in self.sae if not sae.unit_rows]
        if free and "soft_frozen_decoder" in self.controls.kinds:
            raise ValueError(
                f"controls.kinds has 'soft_frozen_decoder', which turns decoder rows of length 1, "
                f"but those of {', '.join(free)} are free; take one of the two out"
            )
        if "random_subject" in self.controls.kinds:
            self._check_random_subject()
        check_variants(self.subject, self.variant)
        self._check_places()
        self._check_through_subject()
        for number, sae in enumerate(self.sae):
            self._check_options(number, sae)
        return self

    def _check_through_subject(self) -> None:
        through = [sae.label for sae in self.sae if sae.end_to_end is not None]
        keys = ("through_tokens", "substitution_pairs")
        wanted = [f"[[sae]] {label!r}" for label in through]
        wanted += [f"evidence.{key}" for key in keys if getattr(self.evidence, key)]
        if not wanted:
            return
        needed = wanted[0]
        subject = self.subject
        if not isinstance(subject, LanguageModelSpec):
            raise ValueError(
                f"{needed} asks for the predictions of a language model, but the subject is of "
                f"kind {subject.kind!r}; take {', '.join(wanted)} out, or name a model"
            )
        if through and subject.dtype == "int8":
            raise ValueError(f"{needed} needs gradients of the subject, which int8 has none of")
        if subject.random_weights is not None:
            raise ValueError(f"{needed}: a subject with random weights predicts nothing")
        if through and self.controls.kinds:
            raise ValueError(
                f"{needed} trains through the subject, where controls.kinds = "
                f"{list(self.controls.kinds)} have other activations; make them a study of its own"
            )

    def _check_places(self) -> None:
        """Every architecture has a site to be trained at, as far as can be said before patterns."""
        sites = [plain(site) for site in self.activations.sites]
        for sae in self.sae:
            if not any("*" in site or sae.takes(site) for site in sites):
                raise ValueError(
                    f"{sae.label} can be trained at none of activations.sites = {sites}; "
                    f"{sae.place}"
                )

    def _check_options(self, number: int, sae: SAESpec) -> None:
        try:
            sae.check_seeds(self.seeds.init)
            sae.check_rows(self.training.steps * self.training.batch)
            for control in self.controls.kinds:
                check_held(sae, control)
        except (ValueError, SpecError) as error:
            raise ValueError(f"sae.{number}: {error}") from None
        if sae.mutual is not None:
            seeds, left = self.seeds.init, sae.mutual.held_out
            if unknown := sorted(set(left) - set(seeds)):
                raise ValueError(f"sae.{number}.mutual.held_out = {unknown} are not in seeds.init")
            if len(set(seeds) - set(left)) < 2:
                raise ValueError(
                    f"sae.{number}.mutual trains runs together and needs two init seeds at least; "
                    f"seeds.init = {list(seeds)}, held_out = {list(left)}"
                )
        try:
            for kind in (None, *self.controls.kinds):
                self._runs_of(sae, "", "", kind, self.seeds.data[0])
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"sae.{number}: {told}") from None

    def _check_random_subject(self) -> None:
        subject = self.subject
        if not isinstance(subject, LanguageModelSpec | ModuleSpec):
            raise ValueError(
                f"controls.kinds has 'random_subject', but a subject of kind {subject.kind!r} has "
                "no weights that could be random; take it out, 'gaussian' and 'shuffled' work on "
                "any activations"
            )
        if subject.random_weights is not None:
            raise ValueError(
                "controls.kinds has 'random_subject', but subject.random_weights says that the "
                "subject itself has random weights; take one of the two out"
            )

    def with_random_weights(self) -> StudySpec:
        """The same study of the subject with random weights, without controls.

        Raises:
            SpecError: if the subject has no weights.
        """
        if not isinstance(self.subject, LanguageModelSpec | ModuleSpec):
            raise SpecError(f"a subject of kind {self.subject.kind!r} has no weights")
        seed = {"random_weights": self.controls.random_weights}
        subject = self.subject.model_copy(update=seed)
        return self.model_copy(update={"subject": subject, "controls": ControlsSpec()})

    @property
    def data(self) -> dict[str, Any]:
        """What decides the activations; every run of a study folder shares it."""
        keep = self.activations.model_dump(
            mode="json", include={"tokens", "held_out", "dtype", "mix_blocks"}
        )
        if self.activations.max_norm is not None:
            keep["max_norm"] = self.activations.max_norm
        subject = self.subject.model_dump(mode="json")
        text = self.text.model_dump(mode="json") if self.text else None
        return {"subject": subject, "text": text, "activations": keep}

    @property
    def read(self) -> list[str]:
        """Patterns of all sites that are read: those of runs, joined ones by part, and targets."""
        targets = (sae.output_site for sae in self.sae)
        return to_read(self.activations.sites, [site for site in targets if site is not None])

    def runs(self, sites: Sequence[str]) -> list[RunSpec]:
        """All runs at these sites, in a fixed order: those of the question, then the controls."""
        kinds: tuple[Control | None, ...] = (None, *self.controls.kinds)
        return [run for kind in kinds for run in self._runs(sites, kind)]

    def _runs(self, sites: Sequence[str], control: Control | None) -> list[RunSpec]:
        random = control == "random_subject"
        data = digest((self.with_random_weights() if random else self).data)
        return [
            run
            for site in sites
            for sae in self.sae
            if sae.takes(site)
            for data_seed in self.seeds.data
            for run in self._runs_of(sae, data, site, control, data_seed)
        ]

    def _runs_of(
        self, sae: SAESpec, data: str, site: str, control: Control | None, data_seed: int
    ) -> list[RunSpec]:
        """Those that differ in nothing but their init seed."""
        left = () if sae.mutual is None else sae.mutual.held_out
        seeds = tuple(seed for seed in self.seeds.init if seed not in left)
        return [
            RunSpec(
                data=data,
                control=control,
                site=site,
                sae=sae,
                training=self.training,
                init_seed=init_seed,
                data_seed=data_seed,
                ensemble=() if sae.mutual is None else seeds,
            )
            for init_seed in seeds
        ]


def _told_by(sae: SAESpec) -> str:
    """What tells its runs from those of others."""
    left = () if sae.mutual is None else sae.mutual.held_out
    return digest([sae.identity(), sorted(set(left))])


def read_study(file: Path) -> tuple[StudySpec, str]:
    """Read a study's TOML: what it says, and its text.

    Raises:
        SpecError: if it cannot be read, is not TOML, or has unknown keys or wrong values.
    """
    try:
        size = file.stat().st_size
        if size > _LARGEST_FILE:
            raise SpecError(f"{file} has {size:,} bytes; a study is at most {_LARGEST_FILE:,}")
        source = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(source.splitlines(), 1):
        if line.partition("=")[0].count(".") > _LONGEST_KEY:
            raise SpecError(f"{file}, line {number}: a key of more than {_LONGEST_KEY} parts")
    try:
        data = tomllib.loads(source)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise SpecError(f"{file} is not TOML: {reason}") from error
    if "sae" in data and not isinstance(data["sae"], list):
        raise SpecError(f"{file}: [sae] is one table; write [[sae]], one for each architecture")
    return read_spec(StudySpec, data, str(file)), source
