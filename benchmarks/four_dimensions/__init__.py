"""How often an edit of the world is right in two, two and time, three, and four dimensions, beside the peers
that the paper names. `python -m benchmarks.four_dimensions --help`."""
