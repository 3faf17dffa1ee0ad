"""A stand-in for the module of `comfy_execution` that tells a node its id."""
