"""A study taken along: to the hub, to Neuronpedia, into notebooks."""
