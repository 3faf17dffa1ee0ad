"""The workflows of this pack, each said once, a wing a file; build_workflows.py writes what is said here.

To add a workflow: a function that returns its `Graph`, in its wing's file; its name in `WORKFLOWS` of that
file, and in `BUNDLED` too where it runs without a file to fetch.
To add a wing: a file `described_<wing>.py` beside this one with both tuples, and the wing in `WINGS`
below. What several wings use lies in described_parts.py.
"""

from __future__ import annotations

import described_clips as clips
import described_pictures as pictures
import described_scenes as scenes
import described_training as training
from described_parts import Workflows

WINGS = (pictures, clips, scenes, training)
WORKFLOWS: Workflows = tuple(workflow for wing in WINGS for workflow in wing.WORKFLOWS)
BUNDLED: tuple[str, ...] = tuple(name for wing in WINGS for name in wing.BUNDLED)  # need no file
