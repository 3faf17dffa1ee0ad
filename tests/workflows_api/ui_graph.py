"""A ComfyUI graph said once, written twice: as the frontend saves it (UI form), as the server takes it (API).

Node definitions are what `/object_info` answers: input (required, optional), output, output_name.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = "0.2.0"
CORE_VERSION = "0.3.64"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
AFTER = "control_after_generate"
LEFT, TOP, GAP_X, GAP_Y, TITLE = 0, 0, 60, 60, 30
WIDTH = 320
DRAWN = {
    "LoadImage": 300,
    "LoadVideo": 300,
    "SaveVideo": 300,
    "EVLM_Example": 230,
    "EVLM_Reason": 280,
    "EVLM_QuickEdit": 380,
    "EVLM_RateEdit": 130,
    "EVLM_Train": 300,
    "EVLM_ExampleScene": 260,
    "EVLM_EditScene": 300,
    "EVLM_RenderScene": 330,
} | dict.fromkeys(
    (
        "EVLM_Ground",
        "EVLM_Segment",
        "EVLM_Edit",
        "EVLM_Composite",
        "EVLM_Track",
        "EVLM_EditVideo",
        "EVLM_Keyframes",
        "EVLM_PropagateKeyframes",
    ),
    260,
)  # pixels that a node needs for what is drawn in it
NOTE = "MarkdownNote"
OPTIONAL, LIST = 7, 6  # LiteGraph's shapes of slots

Definitions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Link:
    """One output of a node. `slot` is its place there."""

    node: Node
    slot: int
    type: str


@dataclass
class Node:
    """A node of a graph. inputs: name -> Link or a widget's value; what is not named keeps its default."""

    id: int
    type: str
    column: int
    info: Mapping[str, Any]
    inputs: dict[str, Any]
    title: str | None = None
    models: list[dict[str, str]] = field(default_factory=list)
    size: tuple[int, int] = (WIDTH, 0)

    def __getitem__(self, output: str) -> Link:
        """The output of this name, as the node shows it."""
        slot = [name.lower() for name in self.info["output_name"]].index(output.lower())
        return Link(self, slot, self.info["output"][slot])


class Graph:
    """Nodes in columns from left to right; in each column from top to bottom as they were added."""

    def __init__(self, name: str, note: str, definitions: Definitions, note_height: int = 400) -> None:
        self.name, self.definitions = name, definitions
        self.nodes: list[Node] = []
        self._app: dict[str, Any] = {}
        about: dict[str, Any] = {"input": {}, "output": [], "output_name": []}
        self.nodes.append(Node(1, NOTE, 0, about, {"text": note}, size=(360, note_height)))

    def add(
        self,
        column: int,
        type: str,
        /,
        *,
        title: str | None = None,
        models: list[dict[str, str]] | None = None,
        size: tuple[int, int] | None = None,
        **inputs: Any,
    ) -> Node:
        """Add a node. Raises KeyError for a type, and ValueError for an input, that the definitions lack."""
        info = self.definitions[type]
        known = dict(specs(info))
        unknown = set(inputs) - set(known)
        if unknown:
            raise ValueError(f"{type} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
        node = Node(len(self.nodes) + 1, type, column, info, inputs, title, models or [])
        node.size = size or (WIDTH, _height(node))
        self.nodes.append(node)
        return node

    def show_as_app(self, inputs: list[tuple[Node, str]], outputs: list[Node]) -> None:
        """What app mode shows, in frontends that have it: widgets of nodes, and the nodes whose pictures
        are the result."""
        self._app = {
            "linearData": {
                "inputs": [[node.id, widget] for node, widget in inputs],
                "outputs": [node.id for node in outputs],
            }
        }

    def api(self) -> dict[str, Any]:
        """The graph as `POST /prompt` takes it."""
        made = {}
        for node in self.nodes:
            if node.type == NOTE:
                continue
            values: dict[str, Any] = {}
            for name, spec in specs(node.info):
                value = node.inputs.get(name, default(spec) if is_widget(spec) else None)
                if isinstance(value, Link):
                    values[name] = [str(value.node.id), value.slot]
                elif is_widget(spec):
                    values[name] = value
            title = node.title or node.info.get("display_name") or node.type
            made[str(node.id)] = {"inputs": values, "class_type": node.type, "_meta": {"title": title}}
        return made

    def ui(self) -> dict[str, Any]:
        """The graph as the frontend saves it."""
        places = self._places()
        links: list[list[Any]] = []
        rows = {node.id: _row(node, places[node.id], order) for order, node in enumerate(self.nodes)}
        for node in self.nodes:
            for slot, entry in enumerate(rows[node.id]["inputs"]):
                source = node.inputs.get(entry["name"])
                if not isinstance(source, Link):
                    continue
                number = len(links) + 1
                links.append([number, source.node.id, source.slot, node.id, slot, source.type])
                entry["link"] = number
                output = rows[source.node.id]["outputs"][source.slot]
                output["links"] = [*(output["links"] or []), number]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"evlm-edit/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": list(rows.values()),
            "links": links,
            "groups": [],
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [80, 80]}, "frontendVersion": "1.27.10"} | self._app,
            "version": 0.4,
        }

    def _places(self) -> dict[int, tuple[int, int]]:
        places, x = {}, LEFT
        for column in sorted({node.column for node in self.nodes}):
            y, wide = TOP, 0
            for node in (n for n in self.nodes if n.column == column):
                places[node.id] = (x, y)
                y += node.size[1] + TITLE + GAP_Y
                wide = max(wide, node.size[0])
            x += wide + GAP_X
        return places


def to_api(ui: Mapping[str, Any], definitions: Definitions) -> dict[str, Any]:
    """A saved graph as the frontend would queue it. Raises ValueError where its parts do not fit together."""
    links = {row[0]: row for row in ui["links"]}
    made = {}
    for node in ui["nodes"]:
        if node["type"] == NOTE:
            continue
        info = definitions[node["type"]]
        values = dict(widget_values(node, info))
        for slot, entry in enumerate(node["inputs"]):
            if entry["link"] is None:
                continue
            _, source, output, target, at, _ = links[entry["link"]]
            if (target, at) != (node["id"], slot):
                raise ValueError(f"link {entry['link']} does not end at {node['type']}.{entry['name']}")
            values[entry["name"]] = [str(source), output]
        title = node.get("title") or info.get("display_name") or node["type"]
        made[str(node["id"])] = {"inputs": values, "class_type": node["type"], "_meta": {"title": title}}
    return made


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(widget, saved value) of a node in UI form. Raises ValueError where there are more or fewer values."""
    names: list[str | None] = []
    for name, spec in specs(info):
        if is_widget(spec):
            names += [name, *([None] if extra(spec) else [])]
    values = node["widgets_values"]
    if len(names) != len(values):
        raise ValueError(f"{node['type']} {node['id']}: {len(values)} values for {len(names)} widgets")
    return ((name, value) for name, value in zip(names, values, strict=True) if name is not None)


def specs(info: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(input, [type, options]) in the node's order: the required ones, then the optional ones."""
    for part in ("required", "optional"):
        yield from info["input"].get(part, {}).items()


def is_widget(spec: Any) -> bool:
    options = spec[1] if len(spec) > 1 else {}
    return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not options.get("forceInput")


def extra(spec: Any) -> str | None:
    """The value that the frontend saves after this widget's own: of a seed's control, of an upload button."""
    options = spec[1] if len(spec) > 1 else {}
    if options.get(AFTER):
        return "fixed"
    return "image" if options.get("image_upload") or options.get("video_upload") else None


def default(spec: Any) -> Any:
    """What the frontend would show for a widget without a value."""
    options = spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    if isinstance(choices, list):
        return choices[0] if choices else ""
    return {"STRING": "", "BOOLEAN": False}.get(spec[0], 0)


def write(graph: Mapping[str, Any]) -> str:
    """The graph as JSON; a list or an object of plain values, a link or a slot, is one line."""
    text = json.dumps(graph, indent=1, ensure_ascii=False)
    return re.sub(r"([\[{])\n\s+([^\[\]{}]{,160}?)\n\s*([\]}])", _one_line, text) + "\n"


def _one_line(found: re.Match[str]) -> str:
    return found[1] + " ".join(line.strip() for line in found[2].split("\n")) + found[3]


def _row(node: Node, place: tuple[int, int], order: int) -> dict[str, Any]:
    """One node in UI form, without its links."""
    own = node.type.startswith("EVLM_")
    inputs: list[dict[str, Any]] = []
    values: list[Any] = []
    known = list(specs(node.info))
    for name, spec in sorted(known, key=lambda each: is_widget(each[1])):  # stable: sockets, then widgets
        kind = "COMBO" if isinstance(spec[0], list) else spec[0]
        shape = {"shape": OPTIONAL} if name in node.info["input"].get("optional", {}) else {}
        entry: dict[str, Any] = {"name": name, **shape, "type": kind, "link": None}
        inputs.append(entry)
        if not is_widget(spec):
            continue
        entry |= {"widget": {"name": name}, "link": entry.pop("link")}
        value = node.inputs.get(name, default(spec))
        values.append(default(spec) if isinstance(value, Link) else value)
        if after := extra(spec):
            values.append(after)
    properties: dict[str, Any] = {}
    if node.type == NOTE:
        values = [node.inputs["text"]]
    else:
        properties = {
            "cnr_id": "evlm-edit" if own else "comfy-core",
            "ver": VERSION if own else CORE_VERSION,
            "Node name for S&R": node.type,
        }
    if node.models:
        properties["models"] = node.models
    row: dict[str, Any] = {
        "id": node.id,
        "type": node.type,
        "pos": list(place),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": [
            {"name": name, **({"shape": LIST} if is_list else {}), "type": kind, "links": None}
            for name, kind, is_list in _outputs(node.info)
        ],
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        "widgets_values": values,
    }
    return row | ({"color": "#432", "bgcolor": "#432"} if node.type == NOTE else {})


def _outputs(info: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """(name, type, whether it is a list) of each output."""
    lists = info.get("output_is_list") or [False] * len(info["output"])
    return zip(info["output_name"], info["output"], lists, strict=True)


def _height(node: Node) -> int:
    """Pixels that the frontend gives such a node: slots of 20, widgets of 24, a text field of 110."""
    known = [spec for _, spec in specs(node.info)]
    sockets = sum(not is_widget(spec) for spec in known)
    height = 20 * max(sockets, len(node.info["output"])) + 16 + DRAWN.get(node.type, 0)
    for spec in filter(is_widget, known):
        options = spec[1] if len(spec) > 1 else {}
        height += 110 if options.get("multiline") else 24
        height += 24 if extra(spec) else 0
    return height
