"""Run the studies of `studies/paper` and write `docs/paper.md` from their results.

python -m benchmarks.paper            hours; each study continues where it was stopped
python -m benchmarks.paper --beside 1 one study at a time, where memory is short
python -m benchmarks.paper --quick    a tenth of the tokens, into folders `quick`; no page
python -m benchmarks.paper --page     the page from what is finished
python -m benchmarks.paper --only k   one study; what the page says of the others stays
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import reseed
from benchmarks.paper import across, architectures, claims
from benchmarks.paper.claims import Claim
from benchmarks.paper.combined import larger_batch, made_of_four
from benchmarks.paper.equal_fvu import at_equal_fvu
from benchmarks.paper.judged import (
    orphans_by_an_instruct_model,
    orphans_by_intruders,
    orphans_nearly_as_interpretable,
)
from benchmarks.paper.page import page
from benchmarks.paper.picture import drawn, name_of
from benchmarks.paper.stabilisers import stabilisers
from reseed.errors import ReseedError

STUDIES = Path("studies")
PAGE, PICTURES = Path("docs/paper.md"), Path("docs/paper")

_CLAIMS: dict[str, list[Callable[[reseed.Study], Claim]]] = {
    "paper/base": [
        claims.part_is_shared,
        claims.two_modes,
        claims.found_in_n,
        claims.with_tokens,
        claims.rare_and_alone,
        orphans_nearly_as_interpretable,
        orphans_by_an_instruct_model,
    ],
    "paper/width": [
        lambda study: across.over(
            study,
            "Overlap falls with the width",
            lambda sae: sae.latents,
            "768 to 131,072 latents: 78.5, 69.6 (4K), 41.6 (32K), 27.6 %",
            -1,
        ),
        lambda study: at_equal_fvu(
            study,
            "Overlap falls with the width where reconstruction is equal",
            lambda sae: sae.latents,
            "not reported",
            -1,
        ),
    ],
    "paper/k": [
        lambda study: across.over(
            study,
            "Overlap falls with k",
            lambda sae: sae.k,
            "k 32 to 256: 41.6, 30.5, 23.4, 17.7 %",
            -1,
        )
    ],
    "paper/layers": [across.layers],
    "paper/stabilisers": [stabilisers],
    "paper/consensus": [orphans_by_intruders],
    "paper/consensus_again": [made_of_four],
    "paper/batch": [larger_batch],
    "second_model": [across.part_in_another],
    "architectures": [architectures.at_one_l0, architectures.at_one_fvu],
    "crossed": [across.order_of_data],
}
"""Study to its claims."""

_HALF_AN_HOUR = {orphans_by_an_instruct_model}
"""Claims that take as long for a tenth of the tokens."""

_SHORT = {"paper/consensus", "paper/consensus_again", "paper/batch"}
"""Studies of a few minutes."""

ORDER = [Path(study).name for study in _CLAIMS]
"""Of the page."""


def tenth(study: Path) -> Path:
    """The same study with a tenth of the tokens and one draw of chance, as a file of its own.

    Of init seeds five are kept, or three for several SAEs, the last among them, and no SAE is wider
    than 2,048 latents: it is to be seen that all of it runs, not what comes out.
    """
    spec = tomllib.loads(study.read_text("utf-8"))
    for table in (spec["activations"], spec["training"]):
        table["tokens"] //= 10
    spec["sae"] = [sae for sae in spec["sae"] if sae["latents"] <= 2048]
    init, most = spec["seeds"]["init"], 3 if len(spec["sae"]) > 1 else 5
    spec["seeds"]["init"] = sorted({*init[: most - 1], init[-1]})
    if not spec["subject"]["model"].startswith("package:"):
        spec["subject"]["model"] = "../" + spec["subject"]["model"]
    spec["stability"] = {"null_draws": 1}
    out = study.parent / "quick" / study.name
    out.parent.mkdir(exist_ok=True)
    out.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in spec.items()), "utf-8")
    return out


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def run(study: Path, threads: int) -> int:
    """The exit code of `reseed run`; its lines are shown with the name of the study."""
    command = [sys.executable, "-u", "-m", "reseed.cli", "run", str(study)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None, "it was asked for"
        for line in running.stdout:
            print(f"{study.stem}: {line}", end="", flush=True)
    return running.returncode


def write(found: list[Claim], whole: Collection[str]) -> None:
    """The page and its pictures; a picture that it does not show any more goes."""
    text = page(found, PAGE.read_text("utf-8"), ORDER, whole)
    PAGE.write_text(text, "utf-8")
    for claim in found:
        if picture := drawn(claim):
            (PICTURES / f"{name_of(claim)}.svg").write_text(picture, "utf-8")
    for picture in PICTURES.glob("*.svg"):
        if f"({PICTURES.name}/{picture.name})" not in text:
            picture.unlink()


class Said(NamedTuple):
    """What came of the studies."""

    found: list[Claim]
    whole: list[str]
    """studies all of whose claims were found"""
    not_run: list[str]
    """studies that did not come to their end, and why"""
    not_told: list[str]
    """claims that a finished study does not answer, and why"""


def said_of(studies: Mapping[str, Path], codes: Mapping[str, Future[int]], quick: bool) -> Said:
    """The claims of each study, as soon as those before it and it have ended."""
    said = Said([], [], [], [])
    for name, study in studies.items():
        code = codes[name].result() if name in codes else 0
        if code >= 128 or code < 0:
            sys.exit("stopped; the same command continues")
        try:
            if code:
                raise ReseedError("its study did not come to its end, see above")
            finished = reseed.Study.load(study)
        except ReseedError as error:
            said.not_run.append(f"{name}: {error}")
            continue
        before = len(said.not_told)
        for claim in _CLAIMS[name]:
            if quick and claim in _HALF_AN_HOUR:
                continue
            try:
                said.found.append(claim(finished))
            except ReseedError as error:
                said.not_told.append(f"a claim of {name}: {error}")
        if len(said.not_told) == before:
            said.whole.append(Path(name).name)
    return said


def main() -> None:
    """Run, then say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--only", nargs="*", default=list(_CLAIMS), choices=list(_CLAIMS))
    parser.add_argument("--beside", type=int, default=2, help="studies at a time (2)")
    asked = parser.parse_args()
    studies = {name: STUDIES / f"{name}.toml" for name in asked.only}
    if asked.quick:
        studies = {name: tenth(study) for name, study in studies.items()}
    # small SAEs leave a second thread idle half of the time, a second study does not
    beside = max(1, min(asked.beside, len(studies)))
    threads = max(1, (os.cpu_count() or 1) // beside)
    with ThreadPoolExecutor(beside) as pool:
        # the one that harvests other sites first, beside one that harvests for all the others;
        # those at the end are short, so that no core waits long for the other
        waiting = sorted(studies, key=lambda name: (name != "paper/layers", name in _SHORT))
        codes = (
            {}
            if asked.page
            else {name: pool.submit(run, studies[name], threads) for name in waiting}
        )
        try:
            said = said_of(studies, codes, asked.quick)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if asked.quick:
        print(page(said.found, "", ORDER, said.whole))
    else:
        write(said.found, said.whole)
    if said.not_told:
        print("\n".join(["cannot be told:", *said.not_told]))
    if said.not_run:
        sys.exit("\n".join(["not run; the same command continues:", *said.not_run]))
    if said.not_told and not asked.quick:  # a tenth of the tokens may be too few for a claim
        sys.exit(1)


if __name__ == "__main__":
    main()
