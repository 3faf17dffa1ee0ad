"""Labels become boxes."""
