"""The bridge's recipe: what it learns from, its three stages, and how often its pictures are right."""
