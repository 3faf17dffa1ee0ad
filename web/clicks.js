// A frame of a clip to click into: what is shown goes into the input `points`, which says all that counts.

import { placeIn, readPoints, writePoints } from "./points.js"
import { button, make } from "./view.js"

const STYLE = new URL("./evlm.css", import.meta.url).href
const WAIT = 120 // milliseconds that the slider has to rest

/**
 * The line in a node. t: translator. onOpen(): it was pressed. Returns element, set(text).
 */
export function createClicksLine({ t, onOpen }) {
  const element = make("div", "evlm-clicks-line")
  const open = button(element, t("clickOpen"), t("clickOpen"), onOpen)
  const line = make("div", "evlm-rows", element)
  return {
    element,
    set(text) {
      const points = readPoints(text)
      const frames = new Set(points?.map((point) => point.frame)).size
      const said = points === null ? t("clickForeign") : points.length ? t("clickCount", points.length, frames) : ""
      if (line.textContent !== said) line.textContent = said
      open.disabled = points === null
    },
  }
}

/**
 * Opens the clip over the page. text: of `points`. frame: of clicks that name none, and where it opens. load(number):
 * a promise of { frame, number, width, height, count } or { error }. onPoints(text): they have changed.
 */
export function openClicks({ t, text, frame, load, onPoints }) {
  const host = make("div", "", document.body)
  const root = host.attachShadow({ mode: "open" })
  const style = make("link", "", root)
  style.rel = "stylesheet"
  style.href = STYLE
  const dialog = make("dialog", "evlm-clicks", root)
  dialog.setAttribute("aria-label", t("clickOpen"))
  dialog.addEventListener("close", () => host.remove())
  // The canvas has shortcuts for the same keys.
  for (const event of ["keydown", "keyup", "keypress", "wheel", "paste", "copy"])
    host.addEventListener(event, (each) => each.stopPropagation())

  const stage = make("div", "evlm-stage", dialog)
  const image = make("img", "", stage)
  image.draggable = false
  image.alt = t("clickHow")
  const marks = make("div", "evlm-marks", stage)
  const hint = make("div", "evlm-hint", dialog)
  const bar = make("div", "evlm-clicks-bar", dialog)
  const range = make("input", "", bar)
  Object.assign(range, { type: "range", min: "0", max: "0", value: String(frame) })
  range.setAttribute("aria-label", t("clickFrame", "", ""))
  const place = make("span", "", bar)
  const modes = { true: button(bar, "+", t("clickOn"), () => mode(true)), false: button(bar, "−", t("clickOff"), () => mode(false)) }
  const undo = button(bar, "↶", t("clickUndo"), () => set(points.slice(0, -1)))
  const clear = button(bar, "✕", t("clickClear"), () => set([]))
  const done = button(bar, t("clickDone"), t("clickDone"), () => dialog.close())

  let points = readPoints(text, frame) ?? []
  let clip = null // of the frame on screen
  let on = true
  let asked = 0
  let timer = 0

  function mode(value) {
    on = value
    for (const [name, each] of Object.entries(modes)) each.setAttribute("aria-pressed", String(name === String(on)))
  }

  function set(next) {
    points = next
    onPoints(writePoints(points))
    draw()
  }

  function draw() {
    marks.replaceChildren()
    for (const point of clip ? points.filter((each) => each.frame === clip.number) : []) {
      const mark = button(marks, point.on ? "+" : "−", t("clickRemove"), () => set(points.filter((each) => each !== point)))
      mark.classList.add("evlm-mark", point.on ? "evlm-on" : "evlm-off")
      mark.style.left = `${((point.x + 0.5) / clip.width) * 100}%`
      mark.style.top = `${((point.y + 0.5) / clip.height) * 100}%`
    }
    undo.disabled = clear.disabled = !points.length
    place.textContent = clip ? t("clickFrame", clip.number, clip.count - 1) : ""
  }

  async function show(number) {
    const mine = ++asked
    const answer = await load(number).catch((error) => ({ error: String(error?.message ?? error) }))
    if (mine !== asked) return
    clip = answer.error ? null : answer
    hint.textContent = answer.error ?? t("clickHow")
    stage.hidden = !clip
    if (clip) {
      image.src = clip.frame
      range.max = String(clip.count - 1)
      range.value = String(clip.number)
      stage.style.width = `min(100%, calc(70vh * ${clip.width / clip.height}))`
      stage.classList.toggle("evlm-small", clip.width < 300)
    }
    draw()
  }

  function click(event, value) {
    event.preventDefault()
    if (!clip) return
    const box = image.getBoundingClientRect()
    const at = placeIn(event.clientX - box.left, event.clientY - box.top, box, clip)
    set([...points, { ...at, frame: clip.number, on: value }])
  }

  image.addEventListener("click", (event) => click(event, event.shiftKey ? !on : on))
  image.addEventListener("contextmenu", (event) => click(event, false))
  range.addEventListener("input", () => {
    clearTimeout(timer)
    timer = setTimeout(() => show(Number(range.value)), WAIT)
  })
  mode(true)
  draw()
  stage.hidden = true
  hint.textContent = t("clickLoading")
  dialog.showModal()
  done.focus()
  show(frame)
}
