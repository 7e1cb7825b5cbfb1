"""Triton's encoder: codes are those of scoring every latent, whatever the product says.

On a GPU where there is one, else through Triton's interpreter (see conftest.py).
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from reseed.loops import gpu_encode as loops
from reseed.sae import codes as kernels
from reseed.sae import gpu as encode
from reseed.sae.gpu import bounds_of, new_screen, plain_bounds

KINDS = ("normal", "grid", "zero", "negative", "copies", "spread", "tiny", "huge")
SIZES = [(2, 19, 300, 1), (2, 7, 90, 6), (4, 5, 20, 3), (1, 33, 2, 1)]
CASES = [(kind, 3, 12, 131, 2) for kind in KINDS]
CASES += [(kind, *size) for kind in ("normal", "grid") for size in SIZES]


def best(scored, k):
    """Dense codes of the k largest positive scores, the first latents among equals."""
    first = torch.argsort(scored, dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scored).scatter(1, first, scored.gather(1, first).relu())


@pytest.mark.parametrize(("kind", "rows", "d", "latents", "k"), CASES)
def test_codes_equal_the_plain_twin(hard, kind, rows, d, latents, k, device):
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights(kind, rows, d, latents))
    made = [encode.top_codes(x, W, b, k, halves=halves) for halves in (True, False)]
    assert torch.equal(made[0].latents, made[1].latents)
    assert torch.equal(made[0].values, made[1].values)
    codes = made[0]
    assert codes.values.shape == codes.latents.shape == (rows, k)
    assert (codes.latents.diff(dim=1) > 0).all()
    assert codes.latents.min() >= 0
    assert codes.latents.max() < latents
    ours = kernels.dense(codes, latents)
    if kind in ("grid", "zero", "negative"):
        plain = best((x.double() @ W.double().T + b).float(), k)
    else:
        plain = kernels.dense(kernels.top_codes_plain(x @ W.T + b, k), latents)
    size = torch.linalg.vector_norm(x, dim=1)[:, None] * torch.linalg.vector_norm(W, dim=1)
    size = size + b.abs()
    if kind == "copies":  # which of the nearly equal is chosen is rounding
        ours, plain = ours.sort(dim=1).values, plain.sort(dim=1).values
        size = size.amax(1, keepdim=True)
    assert ((ours - plain).abs() <= 1e-5 * size).all()
    if kind == "grid":
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_holds_and_the_kernel_computes_it(hard, kind, halves, device):
    """What `triton_bounds` proves, on the numbers that the kernel made."""
    rows, d, latents, group = 3, 40, 150, 8
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights(kind, rows, d, latents))
    screen = new_screen(W, halves=halves)
    left, bounds = bounds_of(x, b, screen)
    groups = -(-latents // group)
    product = torch.empty((rows, latents), dtype=torch.bfloat16, device=device)
    upper, lower = torch.empty((2, rows, groups), device=device)
    loops.screen[encode._tiles(rows, latents)](
        left, screen.rows, bounds.reach, bounds.slope, bounds.lift, bounds.drop, product,
        upper, lower, bounds.slack, rows, latents, d, groups,
        GROUP=group, WIDE=device == "cpu", **encode._TILE, **encode.EXACT,
    )  # fmt: skip
    high, low = plain_bounds(product, bounds)
    scored = x.double() @ W.double().T + b.double()
    assert (scored <= high).all()
    assert (scored >= low).all()
    for ours, plain in ((upper, high), (lower, low)):
        padded = torch.nn.functional.pad(plain, (0, groups * group - latents), value=-torch.inf)
        expected = padded.view(rows, groups, group).amax(2)
        near = 1e-6 * float(product.float().abs().max() + b.abs().max())
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=near)


def test_rows_come_in_slabs_and_some_are_scored_whole(hard, monkeypatch, device):
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights("normal", 5, 9, 100))
    x[2] = 0  # all latents at b
    b[:] = 1.0
    once = encode.top_codes(x, W, b, 4)
    monkeypatch.setattr(encode, "_PRODUCTS", 250)
    monkeypatch.setattr(encode, "_SCORES", 100)
    again = encode.top_codes(x, W, b, 4)
    assert torch.equal(once.values, again.values)
    assert torch.equal(once.latents, again.latents)
    assert once.latents[2].tolist() == [0, 1, 2, 3]


def test_what_has_no_room_is_not_lost(hard, monkeypatch, device):
    """A row that is scored whole; a batch that is looked through again with more room."""
    calls = []
    for name in ("_whole", "_candidates"):
        original = getattr(encode, name)

        def spy(*args, name=name, original=original):
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(encode, name, spy)
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights("copies", 2, 9, 131))
    x *= (x @ W[0]).sign()[:, None]  # all latents fire
    screen = new_screen(W)
    encode.strongest(x, W, b, screen, 2)
    assert calls == ["_candidates", "_whole"]
    calls.clear()
    encode.strongest_of_batch(x, W, b, screen, 2)
    assert calls == ["_candidates", "_candidates"]


@pytest.mark.parametrize("latents", [30, 200])
def test_no_rows(hard, latents, device):
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights("normal", 0, 4, latents))
    assert encode.top_codes(x, W, b, 3).values.shape == (0, 3)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the interpreter
def test_what_is_not_a_number_is_not_lost(hard, device):
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights("normal", 3, 8, 200))
    x[1, 2] = torch.nan
    values = encode.strongest(x, W, b, new_screen(W), 3).values
    assert torch.isnan(values[1]).any()
    assert torch.isfinite(values[[0, 2]]).all()


def dense(best, latents):
    """Dense codes of the strongest."""
    codes = torch.zeros(len(best.values), latents + 1, device=best.values.device)
    return codes.scatter_(1, best.latents, best.values)[:, :-1]


@pytest.mark.parametrize("kind", ["normal", "negative", "spread", "one", "copies"])
@pytest.mark.parametrize(
    ("rows", "d", "latents", "k"), [(3, 9, 130, 2), (4, 6, 20, 3), (2, 5, 3, 3)]
)
def test_the_best_of_a_batch_equal_the_plain_twin(hard, kind, rows, d, latents, k, device):
    x, W, b = (torch.from_numpy(t).to(device) for t in hard.weights(kind, rows, d, latents))
    if kind == "one":  # row takes it all, more than it has room for
        x[0] = 100 * W.sum(0)
        b += 50
        x[1:] = 0
        b[::2] = -1
    screen = new_screen(W)
    best = encode.strongest_of_batch(x, W, b, screen, k)
    pre = x @ W.T + b
    size = torch.linalg.vector_norm(x, dim=1)[:, None] * torch.linalg.vector_norm(W, dim=1)
    ours, plain = dense(best, latents), kernels.batch_top(pre, k)
    size = size + b.abs()
    if kind in ("copies", "one"):  # which of the equals is chosen is open
        ours, plain = (c.flatten().sort().values for c in (ours, plain))
        size = size.amax()
    assert ((ours - plain).abs() <= 1e-5 * size).all()
    assert (best.latents[best.values > 0] < latents).all()
    assert (best.latents[best.values == 0] == latents).all()
