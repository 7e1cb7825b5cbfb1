"""Writes a small SAE and its output with sparsify's own class; run by `make peers`."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

TO = Path(__file__).parents[1] / "sae" / "published" / "sparsify.safetensors"


def main() -> None:
    torch.manual_seed(0)
    coder = SparseCoder(16, SparseCoderConfig(num_latents=64, k=8))
    with torch.no_grad():
        coder.encoder.bias.normal_(std=0.1)
        coder.b_dec.normal_()
        coder.W_dec += 0.1 * torch.randn_like(coder.W_dec)
        x = torch.randn(40, 16)
        out = coder(x)
    tensors = {name: value.contiguous() for name, value in coder.state_dict().items()}
    tensors |= {"x": x, "sae_out": out.sae_out, "fvu": out.fvu.reshape(1)}
    save_file(tensors, TO)


if __name__ == "__main__":
    main()
