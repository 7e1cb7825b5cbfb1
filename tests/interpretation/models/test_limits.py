"""How long to wait, and what may be shown."""

import asyncio

import pytest

from reseed.interpretation.models.limits import Gate, asked_to_wait, quoted, shown, used_up

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        ({"retry-after": "Fri, 15 Jan 2021 08:00:30 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
    ],
)
def test_what_a_refusal_asks_for(headers, seconds):
    assert asked_to_wait(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("remaining", "reset", "seconds"),
    [
        ("0", "20ms", 0.02),
        ("0", "1h2m3.5s", 3723.5),
        ("0", "12", 12.0),
        ("0", str(int(NOW) + 5), 5.0),
        ("0", str(int(NOW + 5) * 1000), 5.0),
        ("1", "6m0s", None),
        ("0", "later", None),
        ("many", "1s", None),
    ],
)
def test_limits_with_nothing_left(remaining, reset, seconds):
    headers = {"x-ratelimit-remaining": remaining, "x-ratelimit-reset": reset}
    assert used_up(headers, NOW) == seconds


def test_the_longest_limit_counts():
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "2s",
    }
    assert used_up(headers, NOW) == 2.0


def test_a_gate_holds_everybody_until_its_time():
    now, slept = 0.0, []

    async def sleep(seconds):
        nonlocal now
        slept.append(seconds)
        now += seconds

    gate = Gate(sleep, lambda: now)
    asyncio.run(gate.wait())
    assert slept == []
    gate.close(5.0)
    gate.close(3.0)  # not earlier than was said before
    asyncio.run(gate.wait())
    asyncio.run(gate.wait())
    assert slept == [5.0]


def test_what_a_server_says_is_shown_on_one_short_line():
    assert shown("a\n b\x1b[2J\u202e" + "c" * 400) == "a b [2J " + "c" * 292
    assert quoted("no\nway") == " It says: no way"
    assert quoted(None) == quoted(" \n") == ""
