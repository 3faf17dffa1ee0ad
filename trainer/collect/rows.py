"""A question as the teacher gets it, and a taught one as a row of the dataset."""

from __future__ import annotations

from typing import Any

from evlm.files.safe_paths import Inside
from evlm.records import Row, row_data, row_problems

from .plan import Question
from .recipe import Recipe
from .sources.item import Item
from .split import split_of
from .stages import key_of
from .teach import PROMPT_VERSION


def task_of(question: Question, copies: dict[str, dict[str, Any]], sample: int) -> dict[str, Any]:
    """What is asked, by paths in the dataset: JSON that says all of it. copies: of each picture by its id."""
    item, original = question.item, copies[question.item.original.id]
    references = [
        {"kind": media.kind, "frames": copies[media.id]["paths"],
         **({} if copies[media.id]["fps"] is None else {"fps": copies[media.id]["fps"]})}
        for media in question.references
    ]  # fmt: skip
    return {
        "original": original["paths"],
        "fps": original["fps"],
        "references": [*references, *({"kind": "text", "text": words} for words in question.words)],
        "edited": [] if item.edited is None else copies[item.edited.id]["paths"],
        "instruction": item.instruction,
        "sample": sample,
        **({"prompt": question.prompt} if question.prompt else {}),
    }


def _made(recipe: Recipe, item: Item) -> dict[str, Any]:
    """Who drew an item's pictures, and by which words."""
    order = None if item.edited is None else item.edited.order
    if order is None or recipe.maker is None:
        return {}
    return {"maker": recipe.maker.model, "maker_prompt": order.prompt}


def mask_task(question: Question, task: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """What `MaskFinder.find` is asked: JSON that says all of it. Of several steps nothing is found: their
    places are the plan's."""
    trace = result["trace"]
    told = {name: trace[name] for name in ("instruction", "targets", "scope", "mask_text")}
    if trace["steps"]:
        told["scope"] = "several"
    return {"original": task["original"], "edited": task["edited"], "edit_type": question.edit_type, **told}


def row_of(
    recipe: Recipe,
    question: Question,
    task: dict[str, Any],
    result: dict[str, Any],
    out: Inside,
    cluster: str,
    mask: dict[str, Any],
    judged: dict[str, float],
    similar: dict[str, float] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """(the row, what is wrong with it). Its label is true until it is rated. out: the dataset's folder.
    cluster: whose split it is in, which may be several groups. mask: what `MaskFinder.find` gave. judged:
    what `verdict` gave. similar: what `Similar` measured."""
    item, trace = question.item, result["trace"]
    own = (item.source, item.license)
    lent = sorted({(each.source, each.license) for each in question.lenders} - {own})
    prompt = task.get("prompt", "")
    asked = key_of(task["original"], prompt, task["references"])  # completions of one question share it
    meta = {
        "license": item.license,
        "source_url": item.source_url,
        "source_id": item.key,
        "group": item.group,
        "teacher": recipe.teacher.model if recipe.teacher is not None else "",
        "prompt_version": PROMPT_VERSION,
        "samples": recipe.teacher.samples if recipe.teacher is not None else 0,
        "repairs": result["repairs"],
        "asked_again": result["again"],
        **({"reference_licenses": lent} if lent else {}),
        "mask_by": mask["by"],
        **({"mask_said": trace["mask_text"]} if "mask_text" in mask else {}),
        **({"judged": judged} if judged else {}),
        **({"similar": similar} if similar else {}),
        **_made(recipe, item),
        **({"known_instruction": item.instruction} if item.instruction else {}),
        **({"scenario": item.extra["scenario"]} if "scenario" in item.extra else {}),
        **({"extra": item.extra} if item.extra else {}),
    }
    row = Row(
        id=f"{question.id}-{task['sample']}",
        question=asked,
        split=split_of(cluster, recipe.seed, recipe.split),
        source=item.source,
        edit_type=question.edit_type,
        category=question.category,
        original=tuple(task["original"]),
        prompt=prompt,
        thinking=trace["thinking"],
        intermediate=trace["intermediate"],
        reflection=trace["reflection"],
        instruction=trace["instruction"],
        targets=tuple(trace["targets"]),
        scope=trace["scope"],
        label=True,
        mask_text=mask.get("mask_text", trace["mask_text"]),
        mask=mask.get("mask"),
        edited=tuple(task["edited"]),
        references=tuple(task["references"]),
        fps=task["fps"],
        meta=meta,
        steps=tuple(trace["steps"]),
    )
    data = row_data(row)
    return data, row_problems(data, out)
