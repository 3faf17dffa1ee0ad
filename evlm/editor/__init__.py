"""Editors: an instruction and frames in, edited frames out."""
