"""Writes small transcoders with circuit-tracer's own class; run by `make peers`."""

import torch
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
from published import D, F, keep, rows, shake


@torch.no_grad()
def main() -> None:
    x = rows()
    for seed, name in enumerate(("relu", "skip", "jumprelu")):
        threshold = torch.rand(F, generator=torch.Generator().manual_seed(1)) + 0.1
        rule = JumpReLU(threshold.clone(), 0.1) if name == "jumprelu" else torch.nn.functional.relu
        theirs = SingleLayerTranscoder(
            D, F, rule, 0, skip_connection=name == "skip", dtype=torch.float32
        )
        shake(theirs, seed)
        if name == "jumprelu":
            theirs.activation_function.threshold.copy_(threshold)
        folder = keep("circuit_tracer", name, theirs(x))
        TranscoderSet({0: theirs}, "in", "out").to_safetensors(str(folder))


if __name__ == "__main__":
    main()
