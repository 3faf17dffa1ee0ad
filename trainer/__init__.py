"""The trainer: `python -m trainer`. Uses evlm, never nodes."""
