"""Rows and encoders that are hard for a product that is only looked at for bounds."""

import numpy as np

from reseed.loops import encode as loops


def weights(kind, rows, d, latents, seed=0):
    """x [B, D], W_enc [F, D], b_enc [F] with what is hard about each kind."""
    rng = np.random.default_rng(seed)
    x, W, b = rng.normal(size=(rows, d)), rng.normal(size=(latents, d)), rng.normal(size=latents)
    if kind == "grid":  # exact ties, exactly rounded
        x, W, b = x.round(), W.round(), b.round()
    elif kind == "zero":
        x[:: 2 if rows > 1 else 1], W[::3] = 0, 0
        b[:] = 0
    elif kind == "negative":
        b -= 1e3
    elif kind == "copies":  # more near-equals than any list has room for
        W[:] = W[0] * (1 + 1e-6 * rng.normal(size=(latents, 1)))
        b[:] = 0
    elif kind == "spread":
        x *= np.exp(5 * rng.normal(size=(rows, 1)))
        W *= np.exp(5 * rng.normal(size=(latents, 1)))
    elif kind == "tiny":
        x, W, b = x * 1e-18, W * 1e-12, b * 0
    elif kind == "faint":  # their squares are 0 in float32
        x, b = x * 1e-26, b * 0
    elif kind == "huge":
        x, W, b = x * 1e8, W * 1e8, b * 1e15
    return tuple(np.ascontiguousarray(a, np.float32) for a in (x, W, b))


def scores(x, W, b):
    """Every pre-activation, by the product that decides."""
    return np.array([[loops.dot(r, w) + bias for w, bias in zip(W, b, strict=True)] for r in x])
