"""`make gpu-check`: what a graphics card makes of the engine and the trainer, with full-size shapes of random
weights, beside named peers in one run. `python -m benchmarks.gpu --help`."""
