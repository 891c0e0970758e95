"""Cost model of messages and exchanges: arithmetic that both exchanges and predictions use."""
