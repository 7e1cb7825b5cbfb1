"""Ready-made calibrations, as the TOML of ordinary studies of the toy."""

from __future__ import annotations

from collections.abc import Mapping

SMALL = """\
# The smallest calibration, to see that the instrument works. Too small to quote. The wide SAE has
# latents to spare, so that planted subspaces must come out; the narrow one has too few.

[subject]
kind = "toy"
features = 48
dimensions = 32
active = 2.5
zipf = 0.3
roots = 2
children = 2
depth = 1
subspaces = 6
rank = 2
factors = 2
block = 128

[activations]
sites = ["toy"]
tokens = 32_000
keep = "live"
mix_blocks = 32

[[sae]]
latents = 96
k = 3
lr = 1e-2

[[sae]]
latents = 32
k = 3
lr = 1e-2

[seeds]
init = [0, 1, 2, 3, 4]

[training]
tokens = 64_000
batch = 128
threads = 1

[evidence]
contexts = 0

[stability]
null_draws = 1

[calibration]
subset = 3
bins = 2
draws = 50
"""

LAPTOP = """\
# A calibration worth reading, in about ten minutes on two processor cores: 3,072 features in 192
# dimensions, more than the SAEs have latents.

[subject]
kind = "toy"
features = 3072
dimensions = 192
active = 12.0
zipf = 0.7
roots = 24
children = 4
depth = 2
subspaces = 40
rank = 2
factors = 16

[activations]
sites = ["toy"]
tokens = 1_500_000
held_out = 0.05
keep = "live"

[[sae]]
latents = 512
k = 12
lr = 2e-3

[[sae]]
latents = 1024
k = 12
lr = 2e-3

[seeds]
init = [0, 1, 2, 3, 4, 5, 6, 7]

[training]
tokens = 1_500_000
batch = 512
threads = 1

[evidence]
contexts = 0

[stability]
null_draws = 1

[calibration]
subset = 4
"""

LARGE = """\
# The features of `full`, 16,384 in 768 dimensions, with one SAE that is narrow for them, five seeds
# and few samples, each seen two and a half times. Half an hour on two processor cores; 1.2 GB of
# disk.

[subject]
kind = "toy"
features = 16384
dimensions = 768
active = 34.0
zipf = 0.5
roots = 128
children = 4
depth = 3
subspaces = 128
rank = 4
factors = 25

[activations]
sites = ["toy"]
tokens = 400_000
held_out = 0.05
keep = "shards"

[[sae]]
latents = 4096
k = 34
lr = 1.5e-3

[seeds]
init = [0, 1, 2, 3, 4]

[training]
tokens = 1_000_000
batch = 512
threads = 1

[evidence]
contexts = 0

[stability]
null_draws = 1

[calibration]
subset = 3
bins = 4
"""

FULL = """\
# The sizes of SynthSAEBench-16k (arXiv 2602.14687): 16,384 features in 768 dimensions, 34 active,
# 128 trees of three levels below the root. How long it takes on your machine:
#     reseed calibrate full --toml > full.toml; reseed plan full.toml

[subject]
kind = "toy"
features = 16384
dimensions = 768
active = 34.0
zipf = 0.5
roots = 128
children = 4
depth = 3
subspaces = 128
rank = 4
factors = 25

[activations]
sites = ["toy"]
tokens = 20_000_000
held_out = 0.01
keep = "live"
mix_blocks = 64

[[sae]]
latents = 4096
k = 34
lr = 4e-4

[[sae]]
latents = 8192
k = 34
lr = 3e-4

[seeds]
init = [0, 1, 2, 3, 4, 5, 6, 7]

[training]
tokens = 20_000_000
batch = 1024
snapshots = [0.25]
checkpoint_tokens = 1_000_000

[evidence]
contexts = 0

[stability]
null_draws = 1

[calibration]
subset = 4
bins = 8
"""

PRESETS: Mapping[str, str] = {"small": SMALL, "laptop": LAPTOP, "large": LARGE, "full": FULL}
"""Name to TOML."""
