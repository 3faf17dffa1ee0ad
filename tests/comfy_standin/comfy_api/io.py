"""Sockets, schemas and the node's base class. A schema here describes itself as the real one does and takes
the same arguments, except that all but `id` go by name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar


def _as(key: str, default: Any = None) -> Any:
    """A field whose name in the description is another."""
    return field(default=default, metadata={"key": key})


def _described(each: Any) -> dict[str, Any]:
    """The fields that are set, by the names that the browser knows."""
    options = {}
    for part in fields(each):
        value, key = getattr(each, part.name), part.metadata.get("key", part.name)
        if key and value is not None:
            options[key] = value.value if isinstance(value, Enum) else value
    return options


@dataclass(kw_only=True)
class Input:
    """A socket that takes a link."""

    io_type: ClassVar[str] = ""
    id: str = field(kw_only=False, metadata={"key": ""})
    display_name: str | None = None
    optional: bool = _as("", False)  # decides under which heading the input stands
    tooltip: str | None = None
    lazy: bool | None = None

    def get_io_type(self) -> str:
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        return _described(self)


@dataclass(kw_only=True)
class _Widget(Input):
    """A socket with a field to fill in; the field's value goes by `default`."""

    default: Any = None
    socketless: bool | None = None
    force_input: bool | None = _as("forceInput")


@dataclass(kw_only=True)
class _Boolean(_Widget):
    io_type = "BOOLEAN"
    label_on: str | None = None
    label_off: str | None = None


@dataclass(kw_only=True)
class _Number(_Widget):
    min: float | None = None
    max: float | None = None
    step: float | None = None
    display_mode: Enum | None = field(default=None, metadata={"key": "display"})


@dataclass(kw_only=True)
class _Int(_Number):
    io_type = "INT"
    control_after_generate: bool | None = None


@dataclass(kw_only=True)
class _Float(_Number):
    io_type = "FLOAT"
    round: float | None = None


@dataclass(kw_only=True)
class _String(_Widget):
    io_type = "STRING"
    multiline: bool = False
    placeholder: str | None = None
    dynamic_prompts: bool | None = _as("dynamicPrompts")


@dataclass(kw_only=True)
class _Combo(Input):
    io_type = "COMBO"
    options: list[Any]
    default: Any = None
    control_after_generate: bool | None = None
    socketless: bool | None = None
    multiselect: bool = field(default=False, init=False)


@dataclass(kw_only=True)
class Output:
    """What a node gives. `id` must differ from those of the inputs."""

    io_type: ClassVar[str] = ""
    id: str | None = field(default=None, kw_only=False)
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False


def _type(io_type: str, input: type[Input] = Input) -> Any:
    class ComfyType:
        Input = type("Input", (input,), {"io_type": io_type})
        Output = type("Output", (Output,), {"io_type": io_type})

    ComfyType.io_type = io_type  # type: ignore[attr-defined]
    return ComfyType


def Custom(io_type: str) -> Any:
    """A socket type of one's own."""
    return _type(io_type)


Boolean, Int, Float = _type("BOOLEAN", _Boolean), _type("INT", _Int), _type("FLOAT", _Float)
String, Combo = _type("STRING", _String), _type("COMBO", _Combo)
Image, Mask, Video, BBOX, AnyType = (_type(name) for name in ("IMAGE", "MASK", "VIDEO", "BBOX", "*"))
Model, Clip, Vae = (_type(name) for name in ("MODEL", "CLIP", "VAE"))


class MultiType:
    """An input that takes several types: io.MultiType.Input("a", types=[io.Image, io.Mask])."""

    @dataclass(kw_only=True)
    class Input(Input):
        types: list[Any] = field(metadata={"key": ""})

        def get_io_type(self) -> str:
            return ",".join(dict.fromkeys(each.io_type for each in self.types))


class Hidden(str, Enum):
    """What ComfyUI fills in by itself."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"
    dynprompt = "DYNPROMPT"


@dataclass
class Schema:
    """A node's description."""

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] | None = None
    outputs: list[Output] | None = None
    hidden: list[Hidden] | None = None
    description: str = ""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    is_api_node: bool = False
    not_idempotent: bool = False
    enable_expand: bool = False

    def finish(self) -> None:
        """Check the ids, and add what ComfyUI adds. Raises ValueError for an id that occurs twice."""
        ids = [each.id for each in (*(self.inputs or ()), *(self.outputs or ())) if each.id is not None]
        if twice := sorted({each for each in ids if ids.count(each) > 1}):
            raise ValueError(f"{self.node_id}: each input and output needs an id of its own; twice: {twice}")
        if self.is_output_node:
            asked = self.hidden or []
            added = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden = [*asked, *(each for each in added if each not in asked)]

    def info(self) -> dict[str, Any]:
        """What the server answers to /object_info about the node."""
        named: dict[str, dict[str, Any]] = {"required": {}}
        for each in self.inputs or ():
            heading = named.setdefault("optional" if each.optional else "required", {})
            heading[each.id] = (each.get_io_type(), each.as_dict())
        for kind in self.hidden or ():
            named.setdefault("hidden", {})[kind.name] = (kind.value,)
        outputs = self.outputs or []
        return {
            "input": named,
            "input_order": {heading: list(each) for heading, each in named.items()},
            "output": [each.io_type for each in outputs],
            "output_is_list": [each.is_output_list for each in outputs],
            "output_name": [each.display_name or each.io_type for each in outputs],
            "output_tooltips": [each.tooltip or None for each in outputs],
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "category": self.category,
            "output_node": self.is_output_node,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "api_node": self.is_api_node,
        }


class NodeOutput:
    """What `execute` returns: the outputs in their order, and what the browser is to show."""

    def __init__(
        self,
        *args: Any,
        ui: Any = None,
        expand: dict[str, Any] | None = None,
        block_execution: str | None = None,
    ) -> None:
        self.args, self.ui, self.expand, self.block_execution = args, ui, expand, block_execution

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """The base of every node."""

    hidden: ClassVar[Any] = None

    @classmethod
    def define_schema(cls) -> Schema:
        raise NotImplementedError

    @classmethod
    def execute(cls, **inputs: Any) -> Any:
        raise NotImplementedError

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The schema, checked. Raises TypeError for a node that lacks one of its two methods."""
        for name in ("define_schema", "execute"):
            if getattr(cls, name).__func__ is getattr(ComfyNode, name).__func__:
                raise TypeError(f"{cls.__name__} defines no {name}")
        schema = cls.define_schema()
        schema.finish()
        return schema

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        return cls.GET_SCHEMA().info()
