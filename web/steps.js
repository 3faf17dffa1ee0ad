// The steps of a plan of several edits, as a list: number, colour, place, words. nodes/ground.py draws the same colours.

import { placeOf } from "./places.js"

const SVG = "http://www.w3.org/2000/svg"

/**
 * Draws steps into list (an <ol>), each with its number and a small map of its place in its own colour. A step is
 * {instruction, targets, scope, mask}; t: translator; make: as of view.js.
 */
export function drawSteps(list, steps, { t, make }) {
  const key = JSON.stringify(steps)
  if (list.dataset.key === key) return
  list.dataset.key = key
  list.replaceChildren()
  list.hidden = !steps.length
  for (const [at, step] of steps.entries()) {
    const item = make("li", `evlm-step evlm-step-${at + 1}`, list)
    make("span", "evlm-number", item, String(at + 1)).title = t("step", at + 1, steps.length)
    item.append(map(step.mask, t("place", at + 1)))
    const words = make("div", "evlm-words", item)
    make("div", "evlm-order", words, step.instruction)
    const chips = make("div", "evlm-chips", words)
    for (const label of step.targets) make("span", "evlm-chip", chips, label)
    if (step.scope === "global") make("span", "evlm-chip evlm-scope", chips, t("wholePicture"))
    chips.hidden = !chips.children.length
  }
}

// The picture as a square, with what the step's own mask marks of it; empty where it names no place.
function map(mask, title) {
  const picture = document.createElementNS(SVG, "svg")
  picture.setAttribute("class", "evlm-map")
  picture.setAttribute("viewBox", "0 0 1000 1000")
  picture.setAttribute("role", "img")
  picture.setAttribute("aria-label", title)
  for (const [x0, y0, x1, y1] of placeOf(mask)) {
    const part = document.createElementNS(SVG, "rect")
    for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
      part.setAttribute(name, String(value))
    }
    picture.append(part)
  }
  return picture
}
