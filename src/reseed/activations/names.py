"""Names of sites: which are read, which are joined, which runs are trained at. Without torch.

`a+b` is a joined site: the rows of a and b side by side. Its parts are read, whether or not runs
are trained at them; so are the targets of transcoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

JOIN = "+"


def plain(site: str) -> str:
    """The one name of a site: without `:out`, which is what a path alone means."""
    return JOIN.join(part.removesuffix(":out") for part in site.split(JOIN))


def parts_of(site: str) -> list[str]:
    """The sites that are joined; a site that is none of these is its own only part."""
    return plain(site).split(JOIN)


def check_joined(sites: Iterable[str]) -> None:
    """Refuse joined sites that cannot be.

    Raises:
        ValueError: naming the site.
    """
    for site in sites:
        parts = parts_of(site)
        if len(parts) == 1:
            continue
        if "*" in site:
            raise ValueError(f"site {site!r} joins patterns; name each site that is joined")
        if "" in parts or len(set(parts)) < len(parts):
            raise ValueError(f"site {site!r} joins {parts}; it takes two different sites or more")


def to_read(sites: Sequence[str], targets: Iterable[str]) -> list[str]:
    """Patterns of all sites that have to be read, each once.

    Args:
        sites: what `activations.sites` says.
        targets: sites that transcoders reconstruct.
    """
    if not any(JOIN in site for site in sites):
        known = {plain(site) for site in sites}
        return [*sites, *dict.fromkeys(t for t in targets if t not in known)]
    parts = [part for site in sites for part in (parts_of(site) if JOIN in site else [site])]
    return list(dict.fromkeys([*parts, *targets]))


def trained_at(sites: Sequence[str], read: Mapping[str, int]) -> dict[str, int]:
    """The sites at which runs are trained, with their dimensions: those asked for.

    Args:
        sites: what `activations.sites` says.
        read: the sites that are read, with their dimensions.
    """
    alone = [site for site in sites if JOIN not in site]
    out = {name: d for name, d in read.items() if any(_means(one, name) for one in alone)}
    for site in sites:
        if JOIN in site:
            out[plain(site)] = sum(read[part] for part in parts_of(site))
    return out


def _means(pattern: str, site: str) -> bool:
    wanted, there = plain(pattern).split("."), site.split(".")
    return wanted == there or (len(wanted) == len(there) and all(map(fnmatchcase, there, wanted)))
