"""Datasets before training: checked, counted, converted to and from what other trainers read."""
