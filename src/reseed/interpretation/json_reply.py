"""The JSON in what a model replied, whatever stands around it."""

from __future__ import annotations

import json
import re
from itertools import islice

from reseed.interpretation.records import Failure

_STARTS = 64
"""Brackets at which JSON is looked for in a reply."""


def first_json(text: str) -> object:
    """The first JSON object or list that stands whole in a text, or a `Failure`.

    Models put fences and prose around what they were asked for; what they mean is the JSON.
    """
    decoder = json.JSONDecoder()
    for match in islice(re.finditer(r"[{\[]", text), _STARTS):
        try:
            return decoder.raw_decode(text, match.start())[0]
        except RecursionError:
            break  # brackets without end; the next ones would take as long
        except ValueError:
            continue
    return Failure(reason="the reply has no JSON", text=text)
