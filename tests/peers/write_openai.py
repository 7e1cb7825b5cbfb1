"""Writes small SAEs with OpenAI's own class.

It is not on PyPI: `PYTHONPATH=CLONE python tests/peers/write_openai.py`, with a clone of
openai/sparse_autoencoder at 4965b94.
"""

import torch
from published import D, F, keep, rows, shake
from sparse_autoencoder.model import Autoencoder, TopK


def main() -> None:
    x = rows()
    activations = {"topk": TopK(3), "relu": torch.nn.ReLU()}
    for seed, (name, activation) in enumerate(activations.items()):
        theirs = Autoencoder(F, D, activation=activation, normalize=name == "topk")
        shake(theirs, seed)
        with torch.no_grad():
            out = theirs(x)[2]
        torch.save(theirs.state_dict(), keep("openai", name, out) / "6.pt")


if __name__ == "__main__":
    main()
