"""One set of models for all roles, and the pipe that carries it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy_api.latest import io

from . import folders, host, load, sockets
from .borrowed import Borrowed
from .checks import checked
from .tracking import tracker_of

OF_THE_SET, NONE = "of the set", "none"
BUNDLED = "bundled"
KEPT = 8  # answers of the reasoner that a pipe remembers


@dataclass
class Pipe:
    """What EVLM_PIPE carries: a model for each role, as the loaders give them, and the last answers.

    reasoner: Managed, or a reasoner behind an endpoint. detector, segmenter: Managed or None.
    """

    reasoner: Any
    detector: Any
    segmenter: Any
    editor: Any
    answers: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def pipeline(self, clip: bool = False) -> Any:
        """A `Pipeline` whose models come to their device when their step begins. clip: with a tracker, where
        the segmenter can be one."""
        from ..evlm.pipeline import Pipeline

        tracker = tracker_of(self.segmenter) if clip else None
        return Pipeline(
            Borrowed(self.reasoner, "reason"),
            None if self.detector is None else Borrowed(self.detector, "ground"),
            None if self.segmenter is None else Borrowed(self.segmenter, "segment"),
            Borrowed(self.editor, "edit"),
            None if tracker is None else Borrowed(tracker, "track"),
        )

    def answered(
        self, keys: Sequence[str], ask: Callable[[list[int], Callable[[int, Any], None]], object]
    ) -> list[Any]:
        """The answers to questions, as they were given before or as they are given now.

        ask(numbers, remember): asks those of these numbers and says each answer.
        """
        unknown = [n for n, key in enumerate(keys) if key not in self.answers and key not in keys[:n]]
        if unknown:
            ask(unknown, lambda number, answer: self.answers.update({keys[number]: answer}))
        for key in keys:
            self.answers.move_to_end(key)
        answers = [self.answers[key] for key in keys]
        while len(self.answers) > max(KEPT, len(keys)):
            self.answers.popitem(last=False)
        return answers


class LoadAll(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..evlm.models.sets import SETS

        about = "; ".join(f"{each.name}: {each.about}" for each in SETS)
        return io.Schema(
            node_id="EVLM_LoadAll",
            display_name="EVLM Load All",
            category=sockets.CATEGORY,
            description="A model for each role at once: reasoner, detector, segmenter and editor. Take a "
            "set, or choose for a role by name, or connect a loader of your own.",
            inputs=[
                io.Combo.Input(
                    "models",
                    options=[BUNDLED, *(each.name for each in SETS)],
                    default=BUNDLED,
                    tooltip=f"'bundled' knows only a small drawn world and needs no files. {about}.",
                ),
                *(_role(role) for role in folders.SEARCHED),
                io.Combo.Input(
                    "adapter",
                    options=list(folders.adapters()),
                    default=folders.NO_ADAPTER,
                    tooltip="LoRA weights for the reasoner, from models/evlm or models/loras.",
                ),
                io.Combo.Input(
                    "quantize",
                    options=load.BITS,
                    tooltip="In 4 bits: a quarter of the memory; needs bitsandbytes, and is slow on a CPU.",
                ),
                load.dtype_input(),
                load.download_input(),
                sockets.Model.Input(
                    "custom_reasoner",
                    optional=True,
                    tooltip="Instead of the set's; Remote EVLM, say.",
                ),
                sockets.Detector.Input("custom_detector", optional=True, tooltip="Instead of the set's."),
                sockets.Segmenter.Input("custom_segmenter", optional=True, tooltip="Instead of the set's."),
                sockets.Editor.Input(
                    "custom_editor", optional=True, tooltip="Instead of the set's; EVLM Native Editor, say."
                ),
            ],
            outputs=[
                sockets.Pipe.Output("pipe", display_name="pipe", tooltip="The models, for EVLM Quick Edit.")
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, models: Any, reasoner: Any, detector: Any, segmenter: Any, editor: Any, adapter: Any, **rest: Any
    ) -> str:
        chosen = {"reasoner": reasoner, "detector": detector, "segmenter": segmenter, "editor": editor}
        names = {
            role: None
            if None in (value, models if value == OF_THE_SET else "")
            else _name(role, value, models)
            for role, value in chosen.items()
            if rest.get(f"custom_{role}") is None
        }
        files = [load.fingerprint_of(role, name) for role, name in names.items() if name != NONE]
        return " ".join([*files, load.fingerprint_of("adapter", adapter)])

    @classmethod
    @checked
    def execute(
        cls,
        models: str,
        reasoner: str,
        detector: str,
        segmenter: str,
        editor: str,
        adapter: str,
        quantize: str,
        dtype: str,
        download: bool,
        custom_reasoner: Any = None,
        custom_detector: Any = None,
        custom_segmenter: Any = None,
        custom_editor: Any = None,
    ) -> io.NodeOutput:
        how: dict[str, Any] = {"dtype": dtype, "download": download}
        loaders: dict[str, tuple[Any, Any, str, dict[str, Any]]] = {
            "reasoner": (
                load.LoadModel,
                custom_reasoner,
                reasoner,
                {"adapter": adapter, "attention": "auto", "quantize": quantize, "max_pixels": 0},
            ),
            "detector": (load.LoadDetector, custom_detector, detector, {}),
            "segmenter": (load.LoadSegmenter, custom_segmenter, segmenter, {}),
            "editor": (load.LoadEditor, custom_editor, editor, {}),
        }
        # All names are looked at before anything is loaded or fetched.
        names = {
            role: _name(role, value, models)
            for role, (_, custom, value, _) in loaders.items()
            if custom is None
        }
        if not download:
            _check_here(names)
        host.tell(_too_large(names, quantize))
        loaded = {}
        for role, (loader, custom, _, more) in loaders.items():
            name = names.get(role, NONE)
            if custom is not None or name == NONE:
                loaded[role] = custom
            else:
                loaded[role] = loader.execute(model=name, **more, **how).args[0]
        return io.NodeOutput(Pipe(**loaded))


def _check_here(names: dict[str, str]) -> None:
    """All models that are absent in one error: role -> name. Raises ModelError."""
    from ..evlm.errors import ModelError

    lacking = [
        folders.absent(role, name)
        for role, name in names.items()
        if name != NONE and folders.find(role, name) is None
    ]
    if lacking:
        raise ModelError("\n".join(lacking))


def _too_large(names: dict[str, str], quantize: str) -> list[str]:
    """What is to be said of models that do not fit the card. A model in 4 bits is not spoken of."""
    from ..evlm.models.fit import remarks

    card = host.card_memory()
    whole = [name for role, name in names.items() if role != "reasoner" or quantize == load.BITS[0]]
    return [] if card is None else remarks(whole, card)


def _role(role: str) -> Any:
    optional = [NONE] if role in ("detector", "segmenter") else []
    return io.Combo.Input(
        role,
        options=[OF_THE_SET, *optional, *folders.models(role)],
        default=OF_THE_SET,
        tooltip=f"The {role}; '{OF_THE_SET}' is what `models` names."
        + (" Without one the plan's own place is taken." if optional else ""),
    )


def _name(role: str, value: object, models: object) -> str:
    """The name of a role's model in that role's list. Raises RequestError for a set that is none."""
    from ..evlm.models.sets import SETS, find_set
    from ..evlm.models.zoo import find

    if value != OF_THE_SET:
        return str(value)
    name = sockets.choice("models", models, [BUNDLED, *(each.name for each in SETS)])
    models_of = find_set(name)
    if models_of is None:
        return name
    return next(m for m in models_of.models if (known := find(m)) is not None and known.role == role)
