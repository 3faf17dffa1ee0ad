"""`python -m evlm scene info`: what a file of Gaussians holds."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from . import arguments as kinds
from .outputs import expanded

if TYPE_CHECKING:
    from ..scene.files import PlySource
    from ..scene.moving import LoadedScene


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    text = ".ply (Inria's layout or compressed), .splat, .spz or .ksplat; or the folder of a scene that moves"
    parser.add_argument("scene", metavar="FILE", type=kinds.path, help=text)
    parser.add_argument("--json", action="store_true", help="as JSON, for a program")


def run(options: argparse.Namespace) -> int:
    """Read and print."""
    from ..scene.moving import load_scene

    loaded = load_scene(expanded(options.scene))
    facts = facts_of(loaded)
    print(json.dumps(facts, indent=2) if options.json else text_of(facts))
    return 0


def facts_of(loaded: LoadedScene) -> dict[str, Any]:
    """What there is to say, as JSON holds it."""
    g = loaded.gaussians
    ordered = g.means.double().sort(0).values
    cut = int(len(g) * 0.01)
    return {
        "kind": loaded.kind,
        "bytes": loaded.size,
        "gaussians": len(g),
        "degree": g.degree,
        "least": ordered[0].tolist(),
        "most": ordered[-1].tolist(),
        "least_98": ordered[cut].tolist(),
        "most_98": ordered[len(g) - 1 - cut].tolist(),
        "median_scale": float(g.scales.median()),
        "opaque": float((g.opacities > 0.5).float().mean()),
        **_besides(loaded.source),
        "motion": _motion(loaded),
        "notes": list(loaded.notes),
    }


def _motion(loaded: LoadedScene) -> dict[str, Any] | None:
    """How it moves; None of a scene that stands still."""
    if loaded.motion is None:
        return None
    times = {camera.time for camera in loaded.cameras if camera.time is not None}
    return {
        "kind": loaded.motion.kind,
        "moving": int(loaded.motion.moving.sum()),
        "keys": len(loaded.motion.keys),
        "cameras": len(loaded.cameras),
        "camera_times": len(times),
    }


def _besides(source: PlySource | None) -> dict[str, Any]:
    """What a .ply holds besides Gaussians."""
    from ..scene.files.ply import NEEDED, rest_names

    if source is None:
        return {"format": None, "properties": [], "elements": [], "comments": []}
    vertex, lines = source.header.element("vertex"), source.header.lines
    assert vertex is not None
    held = {*NEEDED, *rest_names(source.degree)}
    words = [line.decode("ascii", "backslashreplace").strip() for line in lines]
    return {
        "format": source.header.format,
        "properties": [name for name, _ in vertex.properties if name not in held],
        "elements": [each.name for each in source.header.elements if each is not vertex],
        "comments": [each.partition(" ")[2].strip() for each in words if each.startswith("comment ")],
    }


def text_of(facts: dict[str, Any]) -> str:
    """The same as lines to read."""

    def box(low: list[float], high: list[float]) -> str:
        return "  ".join(f"{a:.4g} .. {b:.4g}" for a, b in zip(low, high, strict=True))

    form = f", {facts['format']}" if facts["format"] else ""
    lines = [
        ("kind", f"{facts['kind']}{form}, {facts['bytes']:,} bytes"),
        ("Gaussians", f"{facts['gaussians']:,}, {facts['opaque']:.0%} of them more than half opaque"),
        ("harmonics", f"degree {facts['degree']}"),
        ("x, y, z", box(facts["least"], facts["most"])),
        ("  98 % of them", box(facts["least_98"], facts["most_98"])),
        ("median scale", f"{facts['median_scale']:.3g}"),
    ]
    if (motion := facts["motion"]) is not None:
        lines.append(
            ("moves", f"{motion['moving']:,} of them, {motion['kind']} of {motion['keys']} keys in time")
        )
        seen = f", at {motion['camera_times']} times" if motion["camera_times"] else ""
        lines += [("cameras", f"{motion['cameras']}{seen}")] if motion["cameras"] else []
    for name in ("properties", "elements"):
        if facts[name]:
            lines.append((f"also {name}", ", ".join(facts[name])))
    lines += [("comment", each) for each in facts["comments"]]
    lines += [("note", each) for each in facts["notes"]]
    return "\n".join(f"{name:16}{value}" for name, value in lines)
