"""Other versions of a subject: pruned, rounded, trained further, drawn anew."""

from reseed.subjects.variants.altered import (
    check_variant,
    open_variant,
    predicts,
    toy_features_left,
    variant_cross_entropy,
)

__all__ = [
    "check_variant",
    "open_variant",
    "predicts",
    "toy_features_left",
    "variant_cross_entropy",
]
