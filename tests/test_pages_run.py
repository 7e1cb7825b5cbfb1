"""The pages that tell how to do something do it: their blocks are run in order, in a folder.

A block of Python is run, one of `sh` line by line through the command line, a block with a title is
written to that file. A block of `text` is what the one before it shows: each of its lines, numbers
and the width of columns aside. What cannot run here has `<!-- not run: REASON -->` in front.
"""

import ast
import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FIRST, *NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))
TASKS = [DOCS / name for name in ("my_feature.md", "compare.md", "own_network.md")]

BLOCK = re.compile(
    r"(?P<skip><!-- not run: .+? -->\n+)?^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"[-−]?\d[\d,_.]*(?:e[-+]?\d+)?")


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """The folder of the first notebook, with its finished study `first`."""
    pytest.importorskip("torch", reason="training needs torch")
    folder = tmp_path_factory.mktemp("first")
    with contextlib.chdir(folder):
        run(FIRST, None)
    return folder


def run(page, cli):
    """Run the blocks of a page here."""
    names = {"__name__": "__main__"}
    shown = ""
    for block in BLOCK.finditer(page.read_text("utf-8")):
        text = block["text"]
        if block["kind"] == "text":
            check(text, shown, page)
        elif block["skip"]:
            shown = ""
        elif block["title"]:
            Path(block["title"]).write_text(text)
        elif block["kind"] == "python":
            shown = of_cell(text, names)
        elif block["kind"] == "sh":
            shown = "".join(of_command(line, cli) for line in text.splitlines())


def of_cell(text, names):
    """What a cell prints, and what it ends in, which has to show itself as a notebook would."""
    *before, last = ast.parse(text).body
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(ast.Module(before, []), text, "exec"), names)
        if not isinstance(last, ast.Expr):
            exec(compile(ast.Module([last], []), text, "exec"), names)
        else:
            value = eval(compile(ast.Expression(last.value), text, "eval"), names)
            if value is not None:
                print(repr(value))  # noqa: T201
            if hasattr(value, "_repr_html_"):
                assert value._repr_html_()
    return out.getvalue()


def of_command(line, cli):
    words = [word for word in shlex.split(line, comments=True) if word != "PYTHONPATH=."]
    if not words:
        return ""
    assert words[0] == "reseed", line
    done = cli(*words[1:])
    assert done.returncode == 0, f"{line}: {done.stderr}"
    return done.stdout


def check(expected, shown, page):
    """Each line is among what was shown, in order; `...` stands for anything."""
    left = plain(shown)
    for line in expected.splitlines():
        for part in map(plain, line.split("...")):
            assert part in left, f"{page.name} shows\n{line}\nand what came was\n{shown}"
            left = left[left.index(part) + len(part) :]


def plain(text):
    """Without spaces, the length of rules in tables, and the digits of numbers."""
    return re.sub(r"\s|(?<=─)─+", "", NUMBER.sub("#", text))


@pytest.fixture
def one_thread():
    """Matrices this small gain nothing by more."""
    torch = pytest.importorskip("torch", reason="training needs torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_first_notebook_runs(toy):
    assert (toy / "first" / "report.html").exists()


@pytest.mark.parametrize(
    "page", [*NOTEBOOKS, *TASKS], ids=lambda page: page.relative_to(DOCS).as_posix()
)
def test_a_page_does_what_it_says(page, toy, tmp_path, cli, monkeypatch, one_thread):
    shutil.copytree(toy, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run(page, cli)
