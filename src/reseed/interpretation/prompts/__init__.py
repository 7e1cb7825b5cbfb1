"""The fixed parts of prompts.

Whatever is the same for all latents comes first, so that a server which keeps the prefix of prompts
reads it once.
"""

from __future__ import annotations

from collections.abc import Sequence

from reseed.interpretation.records import Message

EXPLAIN = (
    "You study what a unit of a language model responds to. You get pieces of text. The tokens at "
    "which the unit is active are between << and >>.{listed} Say in one short phrase what the "
    "marked tokens or the text around them have in common. Describe the pattern; do not list the "
    "examples, and do not mention << or >>."
)

LISTED = " After each text its marked tokens are listed with their strength from 1 to 10."

LOGITS = " After the texts come the tokens that the unit makes more likely to follow."

COMMON = "What do the marked tokens have in common?"

THINK = " First reason in a few sentences, then give the phrase."

Shot = tuple[str, tuple[tuple[tuple[str, ...], dict[int, int]], ...], str, str]
"""Explanation, its windows as tokens with strengths by place, likely next tokens, reasoning."""

EXPLAIN_SHOTS: tuple[Shot, ...] = (
    (
        "comparative adjectives ending in -er",
        (
            (("a", " river", " is", " wide", " but", " the", " sea", " is", " wid", "er", "."),
             {8: 3, 9: 8}),
            (("every", " year", " you", " get", " tall", "er", ",", " she"), {4: 4, 5: 7}),
            (("the", " hole", " was", " small", "er", " but", " deep", "er", " than"),
             {3: 5, 4: 9, 6: 4, 7: 7}),
        ),
        '" than", " still"',
        "Adjectives are marked, each with the ending -er that compares.",
    ),
    (
        'the word "because"',
        (
            (("they", " left", " early", " because", " it", " rained"), {3: 9}),
            (("it", " is", " rare", " because", " of", " hunting", "."), {3: 7}),
            (("Because", " he", " was", " ill", ",", " he", " stayed", " in", " bed"), {0: 8}),
        ),
        '" of", " it", " they"',
        "In every text the same word is marked, because, whatever stands around it.",
    ),
    (
        "animals",
        (
            (("a", " farmer", " has", " sheep", " and", " two", " horses"), {3: 8, 6: 9}),
            (("chased", " by", " a", " wolf", " at", " night"), {3: 7}),
            (("the", " eagle", " builds", " its", " nest", " on", " a", " cliff"), {1: 6}),
        ),
        '" herd", " wild"',
        "Sheep, horses, a wolf and an eagle are marked: each is an animal.",
    ),
)  # fmt: skip

DETECT = (
    "You get a description of what a unit of a language model responds to, and numbered texts. For "
    "each text say 1 if something in it fits the description, else 0."
)

FUZZ = (
    "You get a description of what a unit of a language model responds to, and numbered texts in "
    "which some tokens are between << and >>. For each text say 1 if the marked tokens are those "
    "that fit the description, 0 if they are not."
)

Task = tuple[str, tuple[tuple[str, int], ...]]
"""A description, and texts with the right answers."""

DETECT_SHOTS: tuple[Task, ...] = (
    (
        "positions of players in American football",
        (
            ("Patriots tight end Rob Gronkowski had his boss in the stands", 1),
            ("names of months used in the novel: the first is called", 0),
            ("At Media Day the LSU defensive end spoke to the reporters", 1),
            ("is generally not eligible for ads. For example, videos about recent", 0),
            ("the left side of the line, namely tackle Byron Bell and guard Amini", 1),
        ),
    ),
    (
        'the word "guys" in the phrase "you guys"',
        (
            ("enact a health insurance mandate? His response was to dismiss both", 0),
            ("I want to thank you guys for your support in the last ten days", 1),
            ("birth control access, but I assure you women in Kentucky aren't laughing", 0),
            ("the two guys who run the shop told me that it was closed", 0),
            ("of the construction requirements that do not apply to theaters because", 0),
        ),
    ),
    (
        "dates and years",
        (
            ("The church was built in 1843 and burnt down in 1901", 1),
            ("She ordered twelve eggs, two loaves and a pound of butter", 0),
            ("posted on 14 March 2016 by the editor", 1),
            ("until the end of 2012, when revenue is expected to rise", 1),
            ("no wonderworking relics and no true baptism", 0),
        ),
    ),
)

FUZZ_SHOTS: tuple[Task, ...] = (
    (
        "positions of players in American football",
        (
            ("Patriots<< tight end>> Rob Gronkowski had his boss in the stands", 1),
            ("You should know this<< about>> offensive linemen: they are large,<< demanding>>", 0),
            ("At Media Day the LSU defensive end<< spoke>> to the<< reporters>>", 0),
            ("<<running backs>>, he said. The<< defensive end>> is improving", 1),
            ("the left side of the line, namely<< tackle>> Byron Bell and<< guard>> Amini", 1),
        ),
    ),
    (
        'the word "guys" in the phrase "you guys"',
        (
            ("if you are<< comfortable>> with it. You guys support<< me>> in many ways", 0),
            ("birth control access, but I assure you<< women>> in Kentucky aren't laughing", 0),
            ("I want to thank you<< guys>> for your support in the last ten days", 1),
            ("the<< two>> guys who run the shop told me that<< it>> was closed", 0),
            ("he told the host that you<< guys>> are playing against the rules", 1),
        ),
    ),
    (
        "dates and years",
        (
            ("The church was built in<< 1843>> and burnt down in<< 1901>>", 1),
            ("She<< ordered>> twelve eggs, two loaves and a pound of<< butter>>", 0),
            ("posted on<< 14 March 2016>> by the editor", 1),
            ("until<< the>> end of 2012, when revenue is<< expected>> to rise", 0),
            ("no wonderworking<< relics>> and no true baptism", 0),
        ),
    ),
)

INTRUDER = (
    "You get numbered texts. All but one have something in common, which may be a topic, a word or "
    "a turn of phrase.{marked} Name the number of the one that does not belong."
)

MARKED = " Where it shows in a text, the tokens are between << and >>; in the intruder others are."

INTRUDER_SHOTS: tuple[tuple[tuple[str, ...], int], ...] = (
    (
        (
            "Patriots<< tight end>> Rob Gronkowski had his boss in the stands",
            "At Media Day the LSU<< defensive end>> spoke to the reporters",
            "is generally not eligible for ads. For example,<< videos about>> recent",
            "the left side of the line, namely<< tackle>> Byron Bell and his brother",
            "at the age of nine he already played<< quarterback>> for his school",
        ),
        2,
    ),
    (
        (
            "I want to thank you<< guys>> for your support in the last ten days",
            "he told the host that you<< guys>> are playing against the rules",
            "hope you<< guys>> love her, and please be nice to the band",
            "if you<< guys>> are comfortable with it, we leave at six",
            "of the construction requirements that do not apply to<< theaters>>",
        ),
        4,
    ),
    (
        (
            "She ordered twelve eggs, two loaves and a pound of<< butter>>",
            "The church was built in<< 1843>> and was never finished",
            "posted on<< 14 March 2016>> by the editor",
            "until the end of<< 2012>>, when revenue is expected to rise",
            "in<< 1901>> the family moved to a farm in Ohio",
        ),
        0,
    ),
)

SIMULATE = (
    "You get a description of what a unit of a language model responds to, and the numbered tokens "
    "of a text. For each token say how strongly the unit responds, from 0 (not at all, as for most "
    "tokens) to 10."
)

SIMULATE_SHOTS: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...] = (
    (
        "common idioms",
        ("and", " he", " was", " over", " the", " moon", " to", " find"),
        (0, 0, 0, 5, 6, 9, 0, 0),
    ),
    (
        "dates and years",
        ("built", " in", " 18", "43", " and", " burnt", " down"),
        (0, 0, 7, 10, 0, 0, 0),
    ),
)


def turns(system: str, shots: Sequence[tuple[str, str]], last: str) -> tuple[Message, ...]:
    """A conversation: instructions, questions with their answers, and the question asked."""
    out = [Message(role="system", content=system)]
    for question, answer in shots:
        out.append(Message(role="user", content=question))
        out.append(Message(role="assistant", content=answer))
    return (*out, Message(role="user", content=last))
