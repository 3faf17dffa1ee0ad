"""The procedural world: scenes, edits, traces, exact truth. Drawn by code, so that every step of an edit can be checked."""
