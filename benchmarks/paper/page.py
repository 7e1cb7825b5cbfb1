"""The page *The paper, claim by claim*."""

from __future__ import annotations

from collections.abc import Sequence

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


def page(claims: Sequence[Claim]) -> str:
    """Markdown: a table of verdicts, then each claim with its numbers."""
    lines = [f"| {claim.title} | {claim.verdict} |" for claim in claims]
    return f"{_TOP}{chr(10).join(lines)}\n\n{_BASE}\n" + "\n".join(map(_section, claims))


def _section(claim: Claim) -> str:
    rows = [f"| {row.what} | {row.ours} | {row.null} | {row.paper} |" for row in claim.rows]
    return "\n".join(
        [
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
    )
