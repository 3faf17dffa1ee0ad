"""A scene as one page of HTML that any browser shows, with no network."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(__name__, write="scene_page write_page")
