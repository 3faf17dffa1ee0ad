"""The objectives: mathematics only, one file each."""
