"""Run the studies of `studies/paper` and write `docs/paper.md` from their results.

python -m benchmarks.paper            hours; each study continues where it was stopped
python -m benchmarks.paper --quick    a tenth of the tokens, into studies/paper/quick; no page
python -m benchmarks.paper --page     the page from what is finished
python -m benchmarks.paper --only k   one study; what the page says of the others stays
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

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

ORDER = [Path(study).name for study in _CLAIMS]
"""Of the page."""


def tenth(study: Path) -> Path:
    """The same study with a tenth of the tokens, as a file of its own."""
    out = study.parent / "quick" / study.name
    out.parent.mkdir(exist_ok=True)

    def fewer(found: re.Match[str]) -> str:
        return f"tokens = {int(found[1].replace('_', '')) // 10}"

    text = re.sub(r"^tokens = ([\d_]+)", fewer, study.read_text("utf-8"), flags=re.M)
    out.write_text(re.sub(r'^model = "(?!package:)', 'model = "../', text, flags=re.M))
    return out


def run(study: Path) -> bool:
    """Whether `reseed run` came to its end; stops where a signal stopped it."""
    code = subprocess.run([sys.executable, "-m", "reseed.cli", "run", study]).returncode
    if code >= 128 or code < 0:
        sys.exit("stopped; the same command continues")
    return code == 0


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


def main() -> None:
    """Run, then say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the tokens")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--only", nargs="*", default=list(_CLAIMS), choices=list(_CLAIMS))
    asked = parser.parse_args()
    found: list[Claim] = []
    left_out: list[str] = []
    whole: list[str] = []
    for name in asked.only:
        study = STUDIES / f"{name}.toml"
        if asked.quick:
            study = tenth(study)
        before = len(left_out)
        try:
            if not asked.page and not run(study):
                raise ReseedError("its study did not come to its end, see above")
            finished = reseed.Study.load(study)
        except ReseedError as error:
            left_out.append(f"{name}: {error}")
            continue
        for claim in _CLAIMS[name]:
            if asked.quick and claim in _HALF_AN_HOUR:
                continue
            try:
                found.append(claim(finished))
            except ReseedError as error:
                left_out.append(f"a claim of {name}: {error}")
        if len(left_out) == before:
            whole.append(Path(name).name)
    if asked.quick:
        print(page(found, "", ORDER, whole))
    else:
        write(found, whole)
    if left_out:
        sys.exit("\n".join(["left out; the same command continues:", *left_out]))


if __name__ == "__main__":
    main()
