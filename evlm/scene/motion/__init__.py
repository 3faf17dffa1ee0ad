"""How Gaussians move: rigid bases and tables of trajectories, exactly still where nothing moves."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    keys="Keys Motion posed",
    rigid_bases="RigidBases",
    table="Table",
    file="load_motion save_motion",
)
