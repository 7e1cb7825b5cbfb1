"""One seeded, resumable stream of shuffled activations."""
