"""Folders with one file a layer: the file that is meant, if there is only one."""

from __future__ import annotations

from reseed.errors import SpecError
from reseed.formats.files import Files


def layer_file(found: Files, pattern: str) -> str | None:
    """The file itself, or the one of a folder; None if a folder has none or several.

    Args:
        found: a file or a folder.
        pattern: of the names in a folder, e.g. `"layer{}.sae.pt"`.
    """
    if found.is_file:
        return found.path.name if found.path.suffix == pattern[pattern.rindex(".") :] else None
    names = layer_files(found, pattern)
    return names[0] if len(names) == 1 else None


def the_layer_file(found: Files, pattern: str) -> str:
    """The same, where there must be one.

    Raises:
        SpecError: if a folder has none or several.
    """
    name = found.path.name if found.is_file else layer_file(found, pattern)
    if name is None:
        names = layer_files(found, pattern)
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        raise SpecError(
            f"{found.path} holds {len(names)} files like {pattern.format('N')}"
            + (f": {listed}; give one of them" if names else "")
        )
    return name


def layer_files(found: Files, pattern: str) -> list[str]:
    """Names in the folder that fit the pattern, by number."""
    before, after = pattern.split("{}")

    def layer(name: str) -> str:
        return name[len(before) : len(name) - len(after)]

    fits = [
        name
        for name in found.names()
        if name.startswith(before) and name.endswith(after) and layer(name).isdecimal()
    ]
    return sorted(fits, key=lambda name: int(layer(name)))
