// A trace, drawn. Everything a model wrote goes into the page as text, never as markup.

import { readable } from "./readable.js"
import { drawSteps } from "./steps.js"
import { PARTS } from "./trace.js"

const FOLDED_AT_FIRST = ["output"] // what it says stands on top already

/**
 * t: translator. folded: names of parts that are folded, or undefined. onFold(names): the reader folded or unfolded.
 * Returns element, show(traces), setFolded(names), setNote(text).
 */
export function createTraceView({ t, folded, onFold }) {
  const element = make("div", "evlm-trace")
  element.tabIndex = 0 // the keyboard scrolls it
  element.setAttribute("role", "region")
  element.setAttribute("aria-label", t("trace"))
  const pager = make("div", "evlm-pager", element)
  const previous = button(pager, "‹", t("previous"), () => turn(-1))
  const place = make("span", "", pager)
  const next = button(pager, "›", t("next"), () => turn(1))
  const hint = make("div", "evlm-hint", element)
  const instruction = make("div", "evlm-instruction", element)
  const steps = make("ol", "evlm-steps", element)
  const chips = make("div", "evlm-chips", element)
  const outside = make("div", "evlm-text evlm-outside", element)
  const parts = Object.fromEntries(PARTS.map((name) => [name, makePart(name)]))
  const repairs = make("div", "evlm-repairs", element)
  const note = make("div", "evlm-note", element)

  let traces = []
  let page = 0
  let turned = false // by the reader: do not jump to the newest page
  setFolded(folded)
  show([])

  function makePart(name) {
    const details = make("details", `evlm-part evlm-part-${name}`, element)
    const summary = make("summary", "", details, t(name))
    const text = make("div", "evlm-text", details)
    summary.addEventListener("click", () => {
      const names = PARTS.filter((each) => (each === name ? details.open : !parts[each].details.open))
      onFold?.(names)
    })
    return { details, text }
  }

  function turn(by) {
    page = Math.min(Math.max(page + by, 0), traces.length - 1)
    turned = page < traces.length - 1
    draw()
  }

  function setFolded(names) {
    const known = Array.isArray(names) ? names : FOLDED_AT_FIRST
    for (const name of PARTS) parts[name].details.open = !known.includes(name)
  }

  /** traces: what splitTrace or readMessage returns, one for each picture; empty: nothing yet. */
  function show(list) {
    if (list.length < traces.length) turned = false
    traces = list
    if (!turned) page = Math.max(traces.length - 1, 0)
    draw()
  }

  function draw() {
    const trace = traces[page]
    const follows = element.scrollTop + element.clientHeight >= element.scrollHeight - 8
    put(hint, trace ? "" : t("empty"))
    pager.hidden = traces.length < 2
    place.textContent = t("page", page + 1, traces.length)
    previous.disabled = page <= 0
    next.disabled = page >= traces.length - 1
    const several = trace?.steps ?? []
    put(instruction, several.length ? "" : trace?.instruction)
    drawSteps(steps, several, { t, make })
    drawChips(trace)
    put(outside, trace?.outside)
    for (const name of PARTS) {
      put(parts[name].text, name === "output" ? trace?.[name] : readable(trace?.[name]))
      parts[name].details.hidden = !trace?.[name] && trace?.writing !== name
      parts[name].details.classList.toggle("evlm-now", trace?.writing === name)
    }
    put(repairs, trace?.repairs.length ? `${t("mended")}: ${trace.repairs.join(" · ")}` : "")
    if (follows) element.scrollTop = trace?.writing ? element.scrollHeight : 0
  }

  function drawChips(trace) {
    const labels = trace?.steps.length ? [] : (trace?.targets ?? []) // each step names its own
    const scope = trace?.steps.length ? "" : { local: t("local"), global: t("wholePicture") }[trace?.scope] ?? trace?.scope ?? ""
    const sure = trace?.confidence == null ? "" : t("sure", Math.round(100 * trace.confidence))
    const key = JSON.stringify([labels, scope, trace?.mask, sure])
    if (chips.dataset.key === key) return
    chips.dataset.key = key
    chips.replaceChildren()
    for (const label of labels) make("span", "evlm-chip", chips, label)
    if (scope) make("span", "evlm-chip evlm-scope", chips, scope).title = trace.mask || ""
    if (sure) make("span", "evlm-chip evlm-scope", chips, sure)
    chips.hidden = !labels.length && !scope && !sure
  }

  return { element, show, setFolded, setNote: (text) => put(note, text) }
}

export function make(tag, className, parent, text) {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text !== undefined) element.textContent = text
  parent?.append(element)
  return element
}

export function button(parent, text, title, onClick) {
  const element = make("button", "evlm-button", parent, text)
  element.type = "button"
  element.title = title
  element.setAttribute("aria-label", title)
  element.addEventListener("click", onClick)
  return element
}

// Sets a text where it differs, so that a selection in the others survives the next message.
function put(element, text) {
  text = text ?? ""
  if (element.textContent !== text) element.textContent = text
  element.hidden = !text
}
