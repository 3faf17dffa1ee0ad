"""Contact sheets: a run as one picture."""
