"""The page *The paper, claim by claim*."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from benchmarks.paper.claims import Claim
from benchmarks.paper.picture import drawn, name_of

_TOP = """# The paper, claim by claim

What *Sparse Autoencoders Trained on the Same Data Learn Different Features* (arXiv 2501.16615)
found with up to 131,072 latents and 8 billion tokens, beside studies that two processor cores
finish. Made by `make paper` from the studies' results; nothing here is typed. Shares are of latents
with one counterpart in both assignments and both cosines at .7, intervals are 95 % over runs,
random rows have the moments of the real ones.

| claim | here |
|---|---|
"""

_BASE = """The page of the study with nine seeds, as `reseed run` wrote it:

![A sentence, the histogram of matched cosines, three numbers to quote, notes](paper_base.png)
"""


def page(
    claims: Sequence[Claim], before: str, studies: Sequence[str], whole: Collection[str]
) -> str:
    """Markdown: a table of verdicts, then each claim with its numbers.

    What the page said `before` stays unless it is said anew, or is of a study of which all is said
    here (`whole`); `studies` gives the order.
    """
    sections = [_section(claim) for claim in claims]
    anew = {section.title for section in sections}
    kept = [old for old in _read(before) if old.title not in anew and old.study not in whole]
    sections = kept + sections
    sections.sort(key=lambda section: studies.index(section.study))
    lines = [f"| {section.title} | {section.verdict} |" for section in sections]
    body = "\n".join(section.text for section in sections)
    return f"{_TOP}{chr(10).join(lines)}\n\n{_BASE}\n{body}"


class _Section(NamedTuple):
    """A claim as the page has it."""

    title: str
    study: str
    verdict: str
    text: str


_SECTION = re.compile(r"## (.+)\n\n\*\*(.+)\.\*\* Study `(\w+)`")


def _read(text: str) -> list[_Section]:
    """The sections of a page that was made before."""
    starts = [found.start() for found in _SECTION.finditer(text)]
    parts = [text[a:b] for a, b in zip(starts, [*starts[1:], None], strict=False)]
    out: list[_Section] = []
    for part in parts:
        found = _SECTION.match(part)
        assert found is not None
        title, verdict, study = found.groups()
        out.append(_Section(title, study, verdict.lower(), part.rstrip() + "\n"))
    return out


def _section(claim: Claim) -> _Section:
    rows = [f"| {row.what} | {row.ours} | {row.null} | {row.paper} |" for row in claim.rows]
    lines = [
        f"## {claim.title}",
        "",
        f"**{claim.verdict.capitalize()}.** Study `{claim.study}`. {claim.how}",
        *([f"*Why it may differ.* {claim.why}"] if claim.why else []),
        "",
        *([f"![{claim.title}](paper/{name_of(claim)}.svg)", ""] if drawn(claim) else []),
        "| | ours | by chance | the paper |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    return _Section(claim.title, claim.study, claim.verdict, "\n".join(lines))
