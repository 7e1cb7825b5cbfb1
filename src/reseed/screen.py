"""Where people read: text that is not ours is shown as it is, and never commands the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_COMMANDS = dict.fromkeys(
    number
    for first, last in ((0, 8), (11, 31), (127, 159), (0x202A, 0x202E), (0x2066, 0x2069))
    for number in range(first, last + 1)
)
"""Control characters but for tabs and ends of lines, and those that turn the direction of text.
All have no width, so a table does not move when they are left out."""


class Screen(Console):
    """A console without markup: names, paths and replies of models may hold brackets.

    What is ours is styled by `Text` and by the `style` of rows. Whatever is printed, control
    characters in it are left out, so that nothing read from a file moves the cursor or sets a
    title.

    Args:
        stderr: write there instead of to stdout.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As the console does, without control characters in the text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=segment.text.translate(_COMMANDS))


def bold(name: object, after: str = "") -> Text:
    """A name that stands out, and what follows it."""
    return Text.assemble((str(name), "bold"), after)
