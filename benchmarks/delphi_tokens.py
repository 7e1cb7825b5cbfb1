"""Calls and tokens of explaining and scoring one latent, beside what the released Delphi asks.

    python -m benchmarks.delphi_tokens

Both see the same windows: 40 to explain from, 50 + 50 to score on, 32 tokens of four characters
each. Delphi's fixed parts were counted in EleutherAI/delphi, 3c2e139; a token is taken as four
characters. The table is in docs/interpretation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from reseed.interpretation.costs import EACH_MESSAGE, Cost, costs_of_a_latent, quarter
from reseed.interpretation.records import Example, Explanation, Item, Latent, Split
from reseed.spec.interpretation import SCORERS, SHOWN, InterpretationSpec

FIXED = {"explain": (8, 2477), "detection": (8, 2195), "fuzzing": (8, 2639), "intruder": (8, 1414)}
"""Messages and characters of a prompt of Delphi without its examples."""
BATCH = 5
LISTED = 11
"""It lists the first eleven active tokens of a window."""
WINDOW = 32


def delphi_cost(question: str, texts: Sequence[str], marked: int = 0) -> Cost:
    """What Delphi asks for a question about these texts.

    Args:
        question: of `FIXED`.
        texts: the windows: those to explain from, or those to judge (an intruder question has four
            windows and one).
        marked: tokens of each text that are marked and listed.
    """
    messages, letters = FIXED[question]
    fixed = quarter("x" * letters) + EACH_MESSAGE * messages
    shown = sum(map(quarter, texts))
    if question == "explain":
        # ("token" : 7), for each that is listed, and `Activations: ` before them
        shown += len(texts) * (3 + 7 * min(marked, LISTED))
        calls, reply = 1, "[EXPLANATION]: words that say in one short phrase what the latent is"
    else:
        shown += sum(quarter(f"Example {n % BATCH}: ") for n in range(len(texts)))
        calls = ceil(len(texts) / BATCH)
        reply = "[RESPONSE]: 2" if question == "intruder" else "[1,0,0,1,0]"
    # an explanation of sixty characters stands in each prompt that needs one
    phrase = quarter("x" * 60) if question in ("detection", "fuzzing") else 0
    return Cost(
        calls=calls,
        prompt_tokens=calls * (fixed + phrase) + shown,
        repeated_tokens=(calls - 1) * (fixed + phrase),
        reply_tokens=calls * quarter(reply),
    )


def item(split: Split, firing: int, silent: int) -> Item:
    """A latent with windows of one split, no two of which have the same text."""
    of = Latent(run="run", latent=0)
    examples: list[Example] = []
    for number in range(firing + silent):
        fires = number < firing
        example = Example(
            split=split,
            kind="firing" if fires else "random",
            tokens=tuple(f" {(number * WINDOW + place) % 1000:03}" for place in range(WINDOW)),
            activations=tuple(float(fires and place == WINDOW // 2) for place in range(WINDOW)),
            document=number,
            block=number,
            position=0,
            quantile=number % 10 if fires else None,
        )
        examples.append(example)
    phrase = Explanation(of=of, text="numbers of three digits, one after the other", model="")
    return Item(of=of, explanation=phrase, examples=tuple(examples))


def main() -> None:
    """Print the table."""
    server = {"model": "m", "base_url": "http://127.0.0.1:9/v1"}
    spec = InterpretationSpec.model_validate(
        {
            "explainer": server,
            "embedder": {"kind": "words"},
            "likelihood": {"model": "m"},
            "scorers": SCORERS,
        }
    )
    shown, judged = item("explain", 40, 0), item("score", 50, 50)
    texts = [example.text for example in judged.examples]
    marked = [f"<<{text}>>" for text in texts]
    # it asks an intruder question for each window in which the latent is silent
    delphi = {
        "explain": delphi_cost("explain", [example.text for example in shown.examples], 1),
        "detection": delphi_cost("detection", texts),
        "fuzzing": delphi_cost("fuzzing", marked),
        "intruder": delphi_cost("intruder", [text for text in marked[50:] for _ in range(SHOWN)]),
    }
    print("| | calls | prompt | of it repeated | reply | Delphi: calls | prompt | reply |")
    print("|---|---|---|---|---|---|---|---|")
    for name, cost in costs_of_a_latent(shown, judged, spec).items():
        cells = [cost.calls, cost.prompt_tokens, cost.repeated_tokens, cost.reply_tokens]
        there = delphi.get(name)
        beside = ["-"] * 3
        if there is not None:
            beside = [f"{n:,}" for n in (there.calls, there.prompt_tokens, there.reply_tokens)]
        print(f"| {' | '.join([name, *(f'{n:,}' for n in cells), *beside])} |")


if __name__ == "__main__":
    main()
