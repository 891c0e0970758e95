"""The network as a model: what exchanges cost, what this one measures, and a virtual one to run on."""
