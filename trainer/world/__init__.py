"""The procedural world: scenes, edits, traces, exact truth. Drawn by code, so each step can be checked."""
