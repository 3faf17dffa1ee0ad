"""`python -m evlm scene ...`: the table of what can be done with a scene of Gaussians."""

from __future__ import annotations

import argparse
from importlib import import_module

from . import arguments as kinds

ACTIONS = {
    "fit": ("scene_fit", "make a scene from photographs with cameras"),
    "render": ("scene_render", "draw a scene as pictures or a clip"),
    "info": ("scene_info", "say what a file of Gaussians holds"),
    "convert": ("scene_convert", "write a file of Gaussians as another kind"),
    "select": ("scene_select", "say what a request would change in a scene, and draw it"),
    "edit": ("scene_edit", "edit a scene by a request, and nothing beside what it means"),
    "check": (
        "scene_check",
        "hold an edited scene against the one before: what was not selected is as it was",
    ),
    "page": ("scene_page", "write a page that shows it in any browser, with no network"),
}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their flags."""
    actions = parser.add_subparsers(dest="action", metavar=" | ".join(ACTIONS))
    for name, (module, text) in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        import_module(f".{module}", __package__).add_parser(action)


def run(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    if options.action is None:
        raise kinds.ArgumentError(f"scene: an action is missing: {', '.join(ACTIONS)}")
    return int(import_module(f".{ACTIONS[options.action][0]}", __package__).run(options))
