"""Model, data and state: what learns, and what goes on after a kill."""
