"""Other versions of a study's subject: pruned, rounded, trained further, drawn anew."""

from reseed.spec.variants.methods import (
    CheckpointSpec,
    FactorySpec,
    GGUFSpec,
    Int4Spec,
    Int8Spec,
    PrunedSpec,
    RandomWeightsSpec,
    VariantSpec,
    check_variants,
)

__all__ = [
    "CheckpointSpec",
    "FactorySpec",
    "GGUFSpec",
    "Int4Spec",
    "Int8Spec",
    "PrunedSpec",
    "RandomWeightsSpec",
    "VariantSpec",
    "check_variants",
]
