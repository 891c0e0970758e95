"""What messages and exchanges cost: arithmetic, on which exchanges and predictions stand alike."""
