"""What the site adds to pages that a code host shows as they are."""

from __future__ import annotations

import re
from typing import Any

import jupytext
from mkdocs.structure.files import File, Files

_KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}

_BLOCKS = r"((?:(?:<!-- .*? -->\n+)?```.*?\n```\n+)+)"
_ONE_TAB = re.compile(rf"^\*\*(TOML|Command|Python)\*\*\n+{_BLOCKS}", re.MULTILINE | re.DOTALL)
_TABS = re.compile(rf"(?:{_ONE_TAB.pattern}){{2,}}", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MENTIONED = re.compile(r"(?<![\w/`\[(.])\(?docs/(\w+\.md)\b(?!`)")
_NAMED = re.compile(r"\[(\w+\.md)\]\(\1\)")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """A notebook of Jupyter beside each page of `notebooks/`."""
    for page in [file for file in files if file.src_uri.startswith("notebooks/")]:
        notebook = jupytext.reads(page.content_string, fmt="md")
        notebook.metadata["kernelspec"] = _KERNEL
        name = page.src_uri.removesuffix(".md") + ".ipynb"
        text = jupytext.writes(notebook, fmt="ipynb")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Tabs of blocks that stand beside each other, and links where a page is only named."""
    markdown = _TABS.sub(_as_tabs, markdown)
    if page.file.src_uri.startswith("notebooks/"):
        name = page.file.name + ".ipynb"
        markdown = _TITLE.sub(
            rf"\g<0>\n\n[Open as a notebook]({name}){{ .md-button }}", markdown, 1
        )
    up = "../" * page.file.src_uri.count("/")
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_linked(markdown[end : fence.start()], up, files), fence[0]]
        end = fence.end()
    return "".join([*parts, _linked(markdown[end:], up, files)])


def _as_tabs(blocks: re.Match[str]) -> str:
    tabs = []
    for label, fences in _ONE_TAB.findall(blocks[0]):
        inner = "".join(f"    {line}\n" if line else "\n" for line in fences.splitlines())
        tabs.append(f'=== "{label}"\n\n{inner}\n')
    return "".join(tabs)


def _linked(text: str, up: str, files: Files) -> str:
    def link(mention: re.Match[str]) -> str:
        file = files.get_file_from_path(mention[1])
        title = _TITLE.search(file.content_string) if file else None
        if title is None:
            return mention[0]
        opening = "(" if mention[0].startswith("(") else ""
        return f"{opening}[{title[1].replace('`', '')}]({up}{mention[1]})"

    return _MENTIONED.sub(link, _NAMED.sub(r"docs/\1", text))
