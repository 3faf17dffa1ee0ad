"""The recipe and its settings."""
