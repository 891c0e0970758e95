"""The network as a model: calibrated, asked for predictions, and held against finished runs."""
