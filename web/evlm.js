// The pack's extension: traces drawn in EVLM_ShowTrace and EVLM_Reason, thumbs on EVLM_RateEdit, seeds
// that stay.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { createRating, NOT_RATED } from "./rating.js"
import { translator } from "./strings.js"
import { findNode, Pages, readMessage } from "./trace.js"
import { createTraceView } from "./view.js"

const FOLDED = "evlm_folded" // in node.properties
const TRACE_HEIGHT = { EVLM_Reason: 130, EVLM_QuickEdit: 130, EVLM_ShowTrace: 220 }
const TRACE_WIDTH = 360
const RATING_HEIGHT = 92
const SEEDED = ["EVLM_Reason", "EVLM_QuickEdit", "EVLM_Edit", "EVLM_Train"]
const ENDS = ["execution_success", "execution_error", "execution_interrupted"]

const traces = new WeakMap() // node -> { view, pages, streaming, complete: it shows what a run ended with }
const ratings = new WeakMap() // node -> rating

const t = () => translator(app.extensionManager?.setting?.get?.("Comfy.Locale"))
const nodeOf = (id) => findNode(app.rootGraph ?? app.graph, id)

const link = document.createElement("link")
link.rel = "stylesheet"
link.href = new URL("./evlm.css", import.meta.url).href
document.head.append(link)

app.registerExtension({
  name: "EVLM.Trace",

  setup() {
    api.addEventListener("executing", ({ detail }) => onExecuting(detail))
    api.addEventListener("evlm.trace", ({ detail }) => onStream(detail ?? {}))
    for (const event of ["execution_error", "execution_interrupted"]) api.addEventListener(event, onStopped)
    api.addEventListener("execution_cached", ({ detail }) => onCached(detail ?? {}))
  },

  nodeCreated(node) {
    if (!(node.comfyClass in TRACE_HEIGHT)) return
    const view = createTraceView({
      t: t(),
      folded: node.properties?.[FOLDED],
      onFold: (names) => node.setProperty ? node.setProperty(FOLDED, names) : (node.properties[FOLDED] = names),
    })
    traces.set(node, { view, pages: new Pages(), streaming: false, complete: false })
    const height = TRACE_HEIGHT[node.comfyClass]
    addElement(node, "evlm_trace", view.element, { getMinHeight: () => height })
    after(node, "onConfigure", () => view.setFolded(node.properties?.[FOLDED]))
    restoreSoon()
    after(node, "onExecuted", (output) => showOutput(node, output))
  },

  // A workflow that was in the background comes back with the outputs of its last run.
  onNodeOutputsUpdated: restore,
})

app.registerExtension({
  name: "EVLM.Rating",

  nodeCreated(node) {
    if (node.comfyClass !== "EVLM_RateEdit") return
    const verdict = node.widgets?.find((widget) => widget.name === "verdict")
    if (!verdict) return
    const isLinked = () => {
      const slot = node.inputs?.findIndex((input) => input.name === "verdict") ?? -1
      return slot >= 0 && node.isInputConnected(slot)
    }
    const sync = () => rating.setVerdict(verdict.value ?? NOT_RATED, isLinked())
    const rating = createRating({
      t: t(),
      onVerdict(value) {
        verdict.value = value
        verdict.callback?.(value, app.canvas, node)
        sync()
        node.graph?.setDirtyCanvas?.(true, true)
      },
    })
    ratings.set(node, rating)
    addElement(node, "evlm_rating", rating.element, {
      getMinHeight: () => RATING_HEIGHT,
      getMaxHeight: () => RATING_HEIGHT,
      onDraw: sync, // a value can be set without a word: undo, a linked input, another extension
    })
    after(verdict, "callback", sync)
    after(node, "onConfigure", sync)
    after(node, "onConnectionsChange", sync)
    restoreSoon()
    after(node, "onExecuted", (output) => showOutput(node, output))
  },
})

app.registerExtension({
  name: "EVLM.Seed",

  // ComfyUI's own default, randomize, would reason, edit and train anew each time that somebody rates or looks. What a
  // workflow has saved is set after this.
  nodeCreated(node) {
    if (!SEEDED.includes(node.comfyClass)) return
    const control = node.widgets?.find((widget) => widget.name === "control_after_generate")
    if (control) control.value = "fixed"
  },
})

// --- what the server says ---

function onExecuting(id) {
  const trace = traces.get(nodeOf(id))
  if (!trace) return
  trace.pages.clear()
  trace.streaming = true
  trace.complete = false
  trace.view.setNote("")
  trace.view.show([])
}

function onStream({ node: id, text, done }) {
  const trace = traces.get(nodeOf(id))
  if (!trace) return // the workflow was left while it ran
  trace.streaming = true
  trace.complete = false
  trace.pages.feed(text, done)
  trace.view.setNote(done ? "" : t()("writing"))
  trace.view.show(trace.pages.traces())
}

function onStopped({ detail }) {
  const trace = traces.get(nodeOf(detail?.node_id))
  if (!trace?.streaming) return
  trace.streaming = false
  trace.pages.finish()
  trace.view.setNote(t()("stopped"))
  trace.view.show(trace.pages.traces())
}

// Of cached nodes only those at the end of the chain say again what they found: after the page was loaded anew, the
// others are looked up.
async function onCached({ nodes, prompt_id: prompt }) {
  const isBlank = (id) => traces.get(nodeOf(id))?.complete === false
  const blank = (Array.isArray(nodes) ? nodes : []).filter(isBlank)
  if (!blank.length) return
  const finished = await new Promise((done) => {
    for (const event of ENDS) api.addEventListener(event, ({ detail }) => done(detail?.prompt_id), { once: true })
  })
  if (finished !== prompt) return
  const response = await api.fetchApi(`/history/${encodeURIComponent(prompt)}`)
  const outputs = response.ok ? (await response.json())?.[prompt]?.outputs ?? {} : {}
  restore(Object.fromEntries(blank.filter(isBlank).map((id) => [id, outputs[id]])))
}

function showOutput(node, output) {
  const trace = traces.get(node)
  if (trace && Array.isArray(output?.evlm_trace)) {
    trace.streaming = false
    trace.complete = true
    trace.view.setNote("")
    trace.view.show(output.evlm_trace.map(readMessage))
  }
  const rated = output?.evlm_rating
  if (Array.isArray(rated)) ratings.get(node)?.setRows(rated.at(-1))
}

function restore(outputs) {
  for (const [id, output] of Object.entries(outputs ?? {})) {
    const node = nodeOf(id)
    if (node) showOutput(node, output)
  }
}

// Undo makes every node anew and keeps the outputs, without a word.
let restoring = 0
function restoreSoon() {
  clearTimeout(restoring)
  restoring = setTimeout(() => restore(app.nodeOutputs), 50)
}

// --- nodes and their elements ---

/** Last among the widgets and not serialised, so that it shifts no saved value. */
function addElement(node, name, element, options) {
  // serialize in the options: not in the prompt; on the widget: not in the workflow
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: true,
    getValue: () => "",
    setValue: () => {},
    ...options,
  })
  widget.serialize = false
  element.style.setProperty("--evlm-height", `${options.getMinHeight() - 20}px`)
  passOn(element)
  const [width, height] = node.computeSize()
  node.setSize([Math.max(node.size[0], width, TRACE_WIDTH), Math.max(node.size[1], height)])
}

/** The canvas keeps its gestures over the element: zooming, panning with the wheel button, scrolling past its end. */
function passOn(element) {
  element.addEventListener(
    "wheel",
    (event) => {
      const scrolls = element.scrollHeight > element.clientHeight && Math.abs(event.deltaY) >= Math.abs(event.deltaX)
      if (scrolls && !event.ctrlKey && !event.metaKey) {
        event.stopPropagation()
        return
      }
      event.preventDefault()
      event.stopPropagation()
      app.canvas.processMouseWheel(event)
    },
    { passive: false },
  )
  element.addEventListener("pointerdown", (event) => event.button === 1 && app.canvas.processMouseDown(event))
  element.addEventListener("pointermove", (event) => event.buttons & 4 && app.canvas.processMouseMove(event))
  element.addEventListener("pointerup", (event) => event.button === 1 && app.canvas.processMouseUp(event))
}

function after(object, name, then) {
  const before = object[name]
  object[name] = function (...given) {
    const result = before?.apply(this, given)
    then(...given)
    return result
  }
}
