"""What is not ours is shown as it is: no markup, no emoji, no commands for the terminal."""

import io
import re
from pathlib import Path

import polars as pl
import pytest

import reseed
from reseed.cli import tables
from reseed.events import Events
from reseed.screen import Screen, bold

HOME = Path(reseed.__file__).parent
HOSTILE = ("out [/red]", r"\[/bold] \textit{x}", "[[sae]]", "[bold]x", ":smile:", "a[", "x]")
COMMANDS = "\x1b[2J\x1b]0;title\x07\x9b31m\x7f\r\u202etxet"


def screen(monkeypatch, width=100, *, terminal=False):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Screen()
    out.file = io.StringIO()
    out._force_terminal = terminal
    return out


def shown(out):
    return out.file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_no_markup(monkeypatch, text):
    out = screen(monkeypatch)
    out.print(text)
    out.print("Report: ", bold(text), sep="")
    out.print(tables.facts([(text, text)], style="dim"))
    tables.warn(out, [text])
    frame = {"kind": ["orphan"] * 2, "latent": [1, 2], "explanation": [text, None],
             "failure": [None, text]}  # fmt: skip
    out.print(tables.explanations(pl.DataFrame(frame)))
    assert shown(out).count(text) == 7


@pytest.mark.parametrize("terminal", [False, True])
def test_text_commands_no_terminal(monkeypatch, terminal):
    out = screen(monkeypatch, width=160, terminal=terminal)
    out.print(COMMANDS)
    out.print(bold(COMMANDS, COMMANDS))
    out.print(tables.facts([(COMMANDS, COMMANDS)], style="dim"))
    events = Events(console=out)
    events.say(COMMANDS)
    with events.task(COMMANDS, 2, COMMANDS) as task:
        task.advance(1, f"{COMMANDS} [/red]")
    text = shown(out)
    assert "[/red]" in text or not terminal
    assert "]0;title" in text  # what is left of it is letters
    assert not re.search("[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u202a-\u202e]", text)
    ours = re.sub(r"\x1b\[\??[\d;]*[mhlAK]", "", text)  # colours, and the bar that is drawn anew
    assert "\x1b" not in ours
    assert "\x1b[2J" not in text


def test_tabs_and_lines_stay(monkeypatch):
    out = screen(monkeypatch)
    out.print("a\nb")
    assert shown(out) == "a\nb\n"


def test_nothing_else_writes_to_the_terminal():
    for path in sorted(HOME.rglob("*.py")):
        if path.name != "screen.py":
            assert not re.search(r"Console\(|\bescape\(.*markup", path.read_text("utf-8")), path
