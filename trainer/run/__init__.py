"""A run from its recipe to its last adapter."""
