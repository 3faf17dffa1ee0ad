"""How Gaussians move: rigid bases, planes of place and time, tables; exactly still where nothing moves."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    keys="Keys Learned Motion posed",
    rigid_bases="RigidBases",
    hex_plane="HexPlane",
    table="Table",
    file="load_motion save_motion",
)
