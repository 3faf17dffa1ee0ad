"""Boxes become masks."""
