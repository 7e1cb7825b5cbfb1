"""Where the scripts here keep small files that other libraries wrote, and what those libraries
reconstruct from them. The tests of `tests/formats` read them where the libraries are not installed.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parents[1] / "formats" / "published"
D, F = 6, 12


def rows() -> torch.Tensor:
    """Activations as models have them: far from 0, on scales of their own."""
    generator = torch.Generator().manual_seed(7)
    scale = torch.rand(D, generator=generator) * 3 + 0.5
    return torch.randn(40, D, generator=generator) * scale + torch.randn(D, generator=generator)


@torch.no_grad()
def shake(module: torch.nn.Module, seed: int) -> None:
    """All parameters random and none of them 0, so that nothing can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def keep(peer: str, case: str, out: torch.Tensor) -> Path:
    """Keep what a peer makes of `rows()`; gives the folder for its files."""
    kept = HERE / peer / "expected.safetensors"
    expected = load_file(kept) if kept.exists() else {}
    folder = HERE / peer / case
    folder.mkdir(parents=True, exist_ok=True)
    save_file(expected | {"x": rows(), case: out.detach().clone().contiguous()}, kept)
    return folder
