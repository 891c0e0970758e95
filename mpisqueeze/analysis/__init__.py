"""Facts out of finished runs: rankings, targets, evidence for claims. Nothing here draws."""
