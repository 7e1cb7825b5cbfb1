"""Small super-resolution nets: how far apart are SAE seeds, net seeds, scales and sizes?

Nets after A2F (arXiv 2011.06773), trained here, much smaller than any of the paper: block i is
h_i = a h_{i-1} + b R_i(h_{i-1}) + c CA(P_i[h_0; ...; h_{i-1}]) with a residual branch R, a
projection P of all earlier states and channel attention CA. The site is what the last projection
reads, [h_0; h_1; h_2; h_3]. `build` is the subject of studies/superresolution.toml; as a program
this file runs that study and writes its second page.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, pixel_shuffle
from torch.nn.utils.parametrizations import weight_norm

from reseed.errors import SpecError

PACKAGES = "scikit-image==0.26.0 pillow"
TRAINING = ("chelsea.png", "motorcycle_left.png", "ihc.png", "retina.jpg", "hubble_deep_field.jpg",
            "grass.png", "gravel.png", "coins.png")  # fmt: skip
HELD_OUT = ("astronaut.png", "coffee.png", "camera.png", "rocket.jpg", "brick.png", "moon.png")
SIDE, BLOCKS, WIDE = 24, 4, 32
"""Pixels of a low-resolution patch, blocks of a net, channels inside a residual branch."""
STEPS, BATCH = 400, 8
NETS = {
    **{f"x2_{seed}": (2, 16, seed) for seed in range(3)},
    **{f"x3_{seed}": (3, 16, seed) for seed in range(2)},
    **{f"wide_{seed}": (2, 24, seed) for seed in range(2)},
    **{f"untrained_{seed}": (2, 16, 100 + seed) for seed in range(2)},
}
"""Scale, channels, seed."""
FILE = Path(__file__).with_suffix(".pt")


# -- pictures ------------------------------------------------------------------------------------


def pictures(names: tuple[str, ...]) -> list[Tensor]:
    """`[3, H, W]` in 0 to 1; grey ones three times."""
    found = importlib.util.find_spec("skimage")
    if found is None or importlib.util.find_spec("PIL") is None:
        raise SpecError(f"this study reads pictures: pip install --no-deps {PACKAGES}")
    from PIL import Image

    folder = Path(found.submodule_search_locations[0]) / "data"
    shown = (np.asarray(Image.open(folder / name).convert("RGB")) for name in names)
    return [torch.from_numpy(x.copy()).permute(2, 0, 1).float() / 255 for x in shown]


def smaller(x: Tensor, scale: int) -> Tensor:
    """Bicubic, with antialiasing, of `[B, 3, H, W]`."""
    return interpolate(x, scale_factor=1 / scale, mode="bicubic", antialias=True).clamp(0, 1)


def patches(shown: list[Tensor], side: int, count: int, rng: np.random.Generator) -> Tensor:
    """`[pictures * count, 3, side, side]` drawn from each picture, mirrored and turned."""
    out = []
    for picture in shown:
        for _ in range(count):
            y, x = (int(rng.integers(size - side + 1)) for size in picture.shape[1:])
            patch = torch.rot90(picture[:, y : y + side, x : x + side], rng.integers(4), (1, 2))
            out.append(patch.flip(2) if rng.random() < 0.5 else patch)
    return torch.stack(out)


# -- nets ----------------------------------------------------------------------------------------


def _conv(low: int, high: int) -> nn.Module:
    return weight_norm(nn.Conv2d(low, high, 3, padding=1))


class Block(nn.Module):
    """One step, from all states before it."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(_conv(channels, WIDE), nn.ReLU(), _conv(WIDE, channels))
        self.project = nn.Conv2d(channels * number, channels, 1, bias=False)
        squeezed = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), squeezed[0], nn.ReLU(), squeezed[1])
        self.weights = nn.Parameter(torch.ones(3))

    def forward(self, states: list[Tensor]) -> Tensor:
        """The next state."""
        return self.joined(states[-1], self.project(torch.cat(states, 1)))

    def joined(self, last: Tensor, projected: Tensor) -> Tensor:
        """The next state, from what the projection gives."""
        a, b, c = self.weights
        attended = projected * self.attention(projected).sigmoid()
        return a * last + b * self.residual(last) + c * attended


class Net(nn.Module):
    """`[B, 3, H, W]` to `[B, 3, scale H, scale W]`, in 0 to 1."""

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        self.scale = scale
        self.head, self.skip = _conv(3, channels), _conv(3, 3 * scale**2)
        self.blocks = nn.ModuleList(Block(channels, n) for n in range(1, BLOCKS + 1))
        self.tail = _conv(channels, 3 * scale**2)
        # begin at the nearest neighbour, so that a short training is enough
        nearest = torch.zeros(3 * scale**2, 3, 3, 3)
        nearest[range(3 * scale**2), [n // scale**2 for n in range(3 * scale**2)], 1, 1] = 1
        with torch.no_grad():
            self.skip.weight, self.tail.weight = nearest + 1e-3, self.tail.weight / 10
            self.skip.bias.zero_()
            self.tail.bias.zero_()

    def states(self, x: Tensor) -> list[Tensor]:
        """The states before the last block."""
        out = [self.head(2 * x - 1)]
        for block in self.blocks[:-1]:
            out.append(block(out))
        return out

    def ended(self, x: Tensor, last: Tensor) -> Tensor:
        """The picture, from the last state."""
        made = pixel_shuffle(self.tail(last), self.scale)
        return (made + pixel_shuffle(self.skip(2 * x - 1), self.scale) + 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        return self.ended(x, self.blocks[-1](self.states(x)))


class Nets(nn.Module):
    """All nets side by side, so that they are sites of one subject and read the same places."""

    def __init__(self) -> None:
        super().__init__()
        made = {}
        for name, (scale, channels, seed) in NETS.items():
            torch.manual_seed(seed)
            made[name] = Net(scale, channels)
        self.nets = nn.ModuleDict(made)

    def forward(self, x: Tensor) -> None:
        """Run each on the same pictures."""
        for net in self.nets.values():
            net(x)


def trained(net: Net, seed: int, shown: list[Tensor]) -> None:
    """L1 with Adam, 2e-3 to 1e-4 by a cosine."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, 1e-4)
    for step in range(STEPS):
        some = [shown[n] for n in rng.integers(len(shown), size=BATCH)]
        sharp = patches(some, SIDE * net.scale, 1, rng)
        loss = l1_loss(net(smaller(sharp, net.scale)), sharp)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()
        if step % 200 == 0 or step == STEPS - 1:
            print(f"x{net.scale} seed {seed}, step {step}: L1 {loss.item():.4f}", flush=True)


def nets() -> Nets:
    """All of them, trained once and kept beside this file."""
    made = Nets()
    if FILE.exists():
        made.load_state_dict(torch.load(FILE, weights_only=True))
        return made.eval()
    shown = pictures(TRAINING)
    for name, (_, _, seed) in NETS.items():
        if not name.startswith("untrained"):
            trained(made.nets[name], seed, shown)
    torch.save(made.state_dict(), FILE)
    return made.eval()


# -- the subject ---------------------------------------------------------------------------------

EACH = 26
"""Patches of a training picture that the SAEs learn from; of those held out there are eight."""


def sharp_patches() -> tuple[Tensor, list[str]]:
    """`[256, 3, 48, 48]` and the picture of each; the last 48 are of the held-out pictures."""
    rng = np.random.default_rng(0)
    seen = patches(pictures(TRAINING), 2 * SIDE, EACH, rng)
    names = [name.partition(".")[0] for name in np.repeat(TRAINING, EACH)]
    order = rng.permutation(len(seen))
    new = patches(pictures(HELD_OUT), 2 * SIDE, 8, rng)
    return torch.cat([seen[order], new]), [
        *(names[n] for n in order),
        *(name.partition(".")[0] for name in np.repeat(HELD_OUT, 8)),
    ]


def build() -> tuple[nn.Module, list[Tensor], object, list[str]]:
    """Module, batches of eight patches, the low-resolution patch of a sample, its picture."""
    sharp, names = sharp_patches()
    low = smaller(sharp, 2)

    def show(sample: int) -> np.ndarray:
        return (255 * low[sample].permute(1, 2, 0)).round().byte().numpy()

    return nets(), list(low.split(8)), show, names


# -- distances, and decibels ---------------------------------------------------------------------

WORDS = {"x2": "x2", "x3": "x3", "wide": "x2, wider", "untrained": "untrained"}


def main() -> None:
    """Run the study, measure both, write the page."""
    import reseed

    study = reseed.Study.load(Path(__file__).parents[1] / "superresolution.toml")
    reseed.run(study)
    sharp, names = sharp_patches()
    sharp, picture = sharp[-48:], np.repeat(np.arange(len(HELD_OUT)), 8)
    assert names[-1] == HELD_OUT[-1].partition(".")[0]
    made, low = nets(), smaller(sharp, 2)
    saes = {(run.spec.site.split(".")[1], run.spec.init_seed):
            reseed.load(study.folder / "runs" / run.id) for run in study.runs}  # fmt: skip
    with torch.no_grad():
        read = {name: torch.cat(net.states(low), 1) for name, net in made.nets.items()}
        codes = {key: sae.encode(read[key[0]].permute(0, 2, 3, 1).flatten(0, 2)[::4]).numpy()
                 for key, sae in saes.items()}  # fmt: skip
        decibels = {key: carried(made.nets[key[0]], sae, sharp, picture)
                    for key, sae in saes.items() if key[0].startswith("x2")}  # fmt: skip
        quality = [quality_of(name, net) for name, net in made.nets.items()]
    write(distances(codes, np.repeat(picture, SIDE**2)[::4]), quality, study, decibels)


def distances(
    codes: dict[tuple[str, int], np.ndarray], picture: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """What differs, to `[1 + pictures, 2]` of each pair: mean r, share above .7; jackknifed."""
    import reseed

    rng = np.random.default_rng(0)
    mixed = np.concatenate([rng.permutation(np.flatnonzero(picture == n)) for n in range(6)])

    def of(a: tuple[str, int], b: tuple[str, int], rows: np.ndarray | None = None) -> np.ndarray:
        A, B = codes[a], codes[b] if rows is None else codes[b][rows]  # noqa: N806
        out = []
        for left in (None, *range(6)):
            kept = picture != left if left is not None else slice(None)
            found = reseed.match_activations(A[kept], B[kept]).similarity
            out.append((found.sum() / A.shape[1], (found > 0.7).sum() / A.shape[1]))
        return np.array(out)

    x2 = [f"x2_{n}" for n in range(3)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    return {
        "SAE seed": [of((net, i), (net, j)) for net in x2 for i, j in pairs],
        "net seed": [of((x2[i], s), (x2[j], s)) for i, j in pairs for s in (0, 1)],
        "scale (x2, x3)": [
            of((net, s), (f"x3_{n}", s)) for net in x2 for n in (0, 1) for s in (0,)
        ],
        "size (16, 24 channels)": [of((net, 0), (f"wide_{n}", 0)) for net in x2 for n in (0, 1)],
        "trained, untrained": [of((net, 0), (f"untrained_{n}", 0)) for net in x2 for n in (0, 1)],
        "two untrained nets": [of(("untrained_0", s), ("untrained_1", s)) for s in range(3)],
        "rows shuffled": [of((net, 0), (net, 1), mixed) for net in x2],
    }


def psnr(made: Tensor, sharp: Tensor) -> np.ndarray:
    """`[pictures]` decibels, the error averaged over the patches of each picture."""
    error = (made.clamp(0, 1) - sharp).square().mean((1, 2, 3))
    return -10 * np.log10(error.reshape(len(HELD_OUT), -1).mean(1).numpy())


def quality_of(name: str, net: Net) -> dict[str, str]:
    """Decibels of a net and of bicubic on the held-out pictures."""
    rng = np.random.default_rng(1)
    sharp = patches(pictures(HELD_OUT), 48 * net.scale, 8, rng)
    low = smaller(sharp, net.scale)
    plain = interpolate(low, scale_factor=net.scale, mode="bicubic").clamp(0, 1)
    ours, bicubic = psnr(net(low), sharp), psnr(plain, sharp)
    gain = ours - bicubic
    return {"net": name, "PSNR": f"{ours.mean():.2f} dB", "bicubic": f"{bicubic.mean():.2f} dB",
            "gain, least and most of six pictures":
            f"{gain.mean():+.2f} ({gain.min():+.2f} to {gain.max():+.2f})"}  # fmt: skip


def carried(net: Net, sae: object, sharp: Tensor, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Decibels with the site as it is, rebuilt, at its mean; and what each latent carries.

    The projection is linear, so taking out a latent takes its activation times the projected
    decoder row out of what the projection gives.

    Returns:
        `whole`, `rebuilt`, `mean`: `[pictures]`; `lost`: `[latents, pictures]` decibels that are
        lost when the site is rebuilt without a latent.
    """
    low, block = smaller(sharp, 2), net.blocks[-1]
    states = net.states(low)
    site = torch.cat(states, 1)
    rows = site.permute(0, 2, 3, 1).flatten(0, 2)
    codes = sae.encode(rows)

    def laid(values: Tensor) -> Tensor:
        return values.unflatten(0, (len(low), SIDE, SIDE)).permute(0, 3, 1, 2)

    def decibels(projected: Tensor) -> np.ndarray:
        return psnr(net.ended(low, block.joined(states[-1], projected)), sharp)

    rebuilt = block.project(laid(sae.decode(codes)))
    mean = site.mean((0, 2, 3), keepdim=True).expand_as(site)
    whole, base = decibels(block.project(site)), decibels(rebuilt)
    directions = block.project.weight[:, :, 0, 0] @ sae.W_dec.T  # [channels, latents]
    lost = np.zeros((codes.shape[1], len(base)))
    for latent in range(codes.shape[1]):
        if codes[:, latent].any():
            own = laid(codes[:, latent : latent + 1]) * directions[None, :, latent, None, None]
            lost[latent] = base - decibels(rebuilt - own)
    return {"whole": whole, "rebuilt": base, "mean": decibels(block.project(mean)), "lost": lost}


def over_units(values: np.ndarray) -> str:
    """95 % interval of a mean over pictures or nets, by Student's t."""
    from reseed.stability.intervals import t_quantile

    reach = t_quantile(len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean() - reach:.3f} to {values.mean() + reach:.3f}"


def write(
    apart: dict[str, list[np.ndarray]], quality: list[dict[str, str]], study: object,
    decibels: dict[tuple[str, int], dict[str, np.ndarray]],
) -> None:  # fmt: skip
    """The page of the distances and of the decibels."""
    from page import dots, write_page

    from reseed.stability.intervals import jackknife_ends

    points, table = [], []
    for what, pairs in apart.items():
        mean = np.mean(pairs, axis=0)
        low, high = jackknife_ends(mean[0], mean[1:])
        each = np.array([pair[0] for pair in pairs])
        points += [(what, name, mean[0, n], (low[n], high[n]))
                   for n, name in enumerate(("mean r", "share with r > .7"))]  # fmt: skip
        table.append({
            "what differs": what, "pairs": str(len(pairs)), "mean r": f"{mean[0, 0]:.3f}",
            "95% over six pictures": f"{low[0]:.3f} to {high[0]:.3f}",
            "pairs, least and most": f"{each[:, 0].min():.3f} to {each[:, 0].max():.3f}",
            "share with r > .7": f"{mean[0, 1]:.1%}",
            "share, over pictures": f"{max(low[1], 0):.1%} to {high[1]:.1%}",
        })  # fmt: skip
    write_page(
        Path(__file__).parents[1] / "superresolution_distances.html",
        "Four distances between dictionaries of super-resolution nets",
        ["SAEs of what the last projection reads are matched by their activations on the same "
         "6,912 places of six held-out pictures; all nets read the same low-resolution patches."],
        [
            ("Nets on held-out pictures", quality),
            ("Matched activations by what differs", dots(points, "of all latents")),
            ("In numbers", table),
            ("Decibels through the dictionaries of the x2 nets", through(decibels)),
            ("Do reproducible latents carry more?", carriers(study, decibels)),
        ],
        [
            "Six held-out pictures and two or three nets of each kind are the units; the nets are "
            "tiny, trained for 400 steps on eight pictures, and none is a net of the paper.",
            "Mean r counts latents without a partner as 0. A matching by activations gives an "
            "untrained net partners too: what is above that row was learned.",
            "Reproducible latents fire more often, so what they carry is compared inside fifths of "
            "the firing rate; nine SAEs of three nets are not nine nets.",
            "A latent's decibels are those of the last attention branch alone; the same states "
            "reach the output by the residual branch, which is left as it is.",
        ],
    )  # fmt: skip


def through(decibels: dict[tuple[str, int], dict[str, np.ndarray]]) -> list[dict[str, str]]:
    """PSNR with the site as it is, rebuilt, and at its mean."""
    return [
        {"net": name, "SAE seed": str(seed)}
        | {words: f"{found[key].mean():.2f} dB" for key, words in
           (("whole", "as it is"), ("rebuilt", "rebuilt"), ("mean", "site at its mean"))}
        | {"all latents one by one, sum": f"{found['lost'].sum(0).mean():.2f} dB"}
        for (name, seed), found in decibels.items()
    ]  # fmt: skip


def carriers(
    study: object, decibels: dict[tuple[str, int], dict[str, np.ndarray]]
) -> list[dict[str, str | None]]:
    """Loss by how often a latent came back, and the difference inside fifths of firing rate."""
    table, out = study.latents, []
    gaps = []
    for run in study.runs:
        key = run.spec.site.split(".")[1], run.spec.init_seed
        if key not in decibels:
            continue
        own, lost = table.filter(run=run.id).sort("latent"), 1000 * decibels[key]["lost"]
        found, bins = own["n_matched"].to_numpy(), own["rate_bin"].to_numpy()
        inside = [
            lost[(bins == b) & (found == 2)].mean(0) - lost[(bins == b) & (found == 0)].mean(0)
            for b in range(5)
            if ((bins == b) & (found == 2)).any() and ((bins == b) & (found == 0)).any()
        ]
        line: dict[str, str | None] = {"net": key[0], "SAE seed": str(key[1])}
        for n in range(3):
            those = lost[(found == n) & (bins >= 0)]
            line[f"found in {n}, millidecibels"] = f"{those.mean():.2f}" if len(those) else None
        line["latents"] = " / ".join(str((found == n).sum()) for n in range(3))
        if inside:
            gaps.append(np.mean(inside, axis=0))
            line["2 minus 0, fifths of rate"] = f"{gaps[-1].mean():.2f}"
            line["95% over six pictures"] = over_units(gaps[-1])
        out.append(line)
    if gaps:
        every = np.mean(gaps, axis=0)
        line = {"net": f"{len(gaps)} with both", "95% over six pictures": over_units(every)}
        out.append(line | {"2 minus 0, fifths of rate": f"{every.mean():.2f}"})
    return out


if __name__ == "__main__":
    main()
