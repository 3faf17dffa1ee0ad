// The pack's extension: traces drawn in EVLM_ShowTrace and EVLM_Reason, thumbs on EVLM_RateEdit, clicks for EVLM_Track,
// what EVLM_Train said last, seeds that stay.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { createClicksLine, openClicks } from "./clicks.js"
import { addElement } from "./elements.js"
import { endPicture, endText } from "./previews.js"
import { createRating, isOfWorkflow, NOT_RATED } from "./rating.js"
import { followRuns } from "./runs.js"
import { addUpload } from "./scene_upload.js"
import { translator } from "./strings.js"
import { findNode } from "./trace.js"
import { createTraceView, make } from "./view.js"

const FOLDED = "evlm_folded" // in node.properties
const TRACE_HEIGHT = { EVLM_Reason: 130, EVLM_QuickEdit: 130, EVLM_ShowTrace: 220 }
const RATING_HEIGHT = 92
const SAYS_HEIGHT = 64
const CLICKS_HEIGHT = 56
const FILE_OF = { LoadVideo: "file" } // core's node -> its widget that names a clip
const SEEDED = ["EVLM_Reason", "EVLM_QuickEdit", "EVLM_Edit", "EVLM_EditVideo", "EVLM_Train", "EVLM_FitScene"]

const views = new WeakMap() // node -> trace view
const ratings = new WeakMap() // node -> rating
const syncs = new WeakMap() // node -> draws its verdict
const spent = new Map() // node's number -> what was written by its verdict, until that is taken back
const lines = new WeakMap() // node -> the element of its last text

const rootGraph = () => app.rootGraph ?? app.graph
const t = () => translator(app.extensionManager?.setting?.get?.("Comfy.Locale"))

const runs = followRuns({
  isTraced: (node) => Boolean(node && views.has(node)),
  show(node, { traces, note }) {
    views.get(node).setNote(note && t()(note))
    views.get(node).show(traces)
  },
  finish(node, output) {
    if (Array.isArray(output?.evlm_rating)) ratings.get(node)?.setRows(output.evlm_rating.at(-1))
    if (!Array.isArray(output?.text) || !lines.has(node)) return
    lines.get(node).textContent = output.text.join("\n")
    endText(node)
  },
})

app.registerExtension({
  name: "evlmreflectiveediting.trace",

  nodeCreated(node) {
    if (!(node.comfyClass in TRACE_HEIGHT)) return
    const view = createTraceView({
      t: t(),
      folded: node.properties?.[FOLDED],
      onFold: (names) => node.setProperty ? node.setProperty(FOLDED, names) : (node.properties[FOLDED] = names),
    })
    views.set(node, view)
    addElement(node, "evlm_trace", view.element, { label: t()("trace"), height: TRACE_HEIGHT[node.comfyClass] })
    after(node, "onConfigure", () => view.setFolded(node.properties?.[FOLDED]))
    listen(node)
  },

  // A workflow that was in the background comes back with the outputs of its last run.
  onNodeOutputsUpdated: runs.restore,

  afterConfigureGraph() {
    takeBack()
    return runs.catchUp()
  },
})

app.registerExtension({
  name: "evlmreflectiveediting.rating",

  nodeCreated(node) {
    if (node.comfyClass !== "EVLM_RateEdit") return
    const verdict = node.widgets?.find((widget) => widget.name === "verdict")
    if (!verdict) return
    const rating = createRating({ t: t(), onVerdict: (value) => setVerdict(node, value) })
    const sync = () => rating.setVerdict(verdict.value ?? NOT_RATED, isLinked(node, "verdict"))
    ratings.set(node, rating)
    syncs.set(node, sync)
    addElement(node, "evlm_rating", rating.element, { height: RATING_HEIGHT, maxHeight: RATING_HEIGHT, beat: sync })
    listen(node)
  },
})

function setVerdict(node, value) {
  const verdict = widgetOf(node, "verdict")
  verdict.value = value
  verdict.callback?.(value, app.canvas, node)
  syncs.get(node)?.()
  node.graph?.setDirtyCanvas?.(true, true)
}

// A verdict is of the edit that was seen, and the next run may make another.
runs.onEnd((id, output) => {
  const written = Array.isArray(output?.evlm_rating) ? output.evlm_rating.filter((each) => each.written) : []
  if (!written.length) return
  spent.set(id, written.at(-1))
  takeBack()
})

function takeBack() {
  for (const [id, message] of spent) {
    if (!isOfWorkflow(message, rootGraph()?.id)) continue // it was left while it ran
    spent.delete(id)
    const node = findNode(rootGraph(), id)
    if (node?.comfyClass !== "EVLM_RateEdit" || isLinked(node, "verdict")) continue
    if (widgetOf(node, "verdict")?.value === message.verdict) setVerdict(node, NOT_RATED)
  }
}

app.registerExtension({
  name: "evlmreflectiveediting.clicks",

  nodeCreated(node) {
    if (node.comfyClass !== "EVLM_Track") return
    const points = widgetOf(node, "points")
    if (!points) return
    const line = createClicksLine({
      t: t(),
      onOpen: () =>
        openClicks({
          t: t(),
          text: points.value,
          frame: Number(widgetOf(node, "frame")?.value) || 0,
          load: (number) => clipFrame(node, number),
          onPoints(text) {
            points.value = text
            points.callback?.(text, app.canvas, node)
            node.graph?.setDirtyCanvas?.(true, true)
          },
        }),
    })
    const sync = () => line.set(isLinked(node, "points") ? "" : points.value)
    addElement(node, "evlm_clicks", line.element, { height: CLICKS_HEIGHT, maxHeight: CLICKS_HEIGHT, beat: sync })
  },
})

/** A frame of the clip that comes from a node that names its file, as the server reads it. */
async function clipFrame(node, number) {
  const slot = node.inputs?.findIndex((input) => input.name === "clip") ?? -1
  const from = slot >= 0 ? node.getInputNode(slot) : null
  const widget = FILE_OF[from?.comfyClass]
  const video = widget && widgetOf(from, widget)?.value
  if (!video) return { error: t()("clickNone") }
  const query = new URLSearchParams({ video, frame: String(number) })
  return (await api.fetchApi(`/evlm/clip_frame?${query}`)).json()
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name)

function isLinked(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1
  return slot >= 0 && node.isInputConnected(slot)
}

app.registerExtension({
  name: "evlmreflectiveediting.says",

  // The frontend takes the texts of a run away when it ends, and what a training came to is said there.
  nodeCreated(node) {
    if (node.comfyClass !== "EVLM_Train") return
    const line = make("div", "evlm-says")
    line.setAttribute("role", "status")
    line.dataset.empty = t()("untrained")
    lines.set(node, line)
    addElement(node, "evlm_says", line, { height: SAYS_HEIGHT, maxHeight: SAYS_HEIGHT })
    listen(node)
  },
})

app.registerExtension({
  name: "evlmreflectiveediting.result",

  nodeCreated(node) {
    if (!String(node.comfyClass).startsWith("EVLM_")) return
    after(node, "onExecuted", (output) => output?.images?.length && endPicture(node))
  },
})

app.registerExtension({
  name: "evlmreflectiveediting.scene",

  nodeCreated(node) {
    if (node.comfyClass === "EVLM_LoadScene") addUpload(node, t())
  },
})

app.registerExtension({
  name: "evlmreflectiveediting.seed",

  // ComfyUI's own default, randomize, would reason, edit and train anew each time that somebody rates or looks. What a
  // workflow has saved is set after this.
  nodeCreated(node) {
    if (!SEEDED.includes(node.comfyClass)) return
    const control = node.widgets?.find((widget) => widget.name === "control_after_generate")
    if (control) control.value = "fixed"
  },
})

function listen(node) {
  after(node, "onExecuted", (output) => runs.end(node, output))
  restoreSoon()
}

// Undo makes every node anew and keeps the outputs, without a word.
let restoring = 0
function restoreSoon() {
  clearTimeout(restoring)
  restoring = setTimeout(() => runs.restore(app.nodeOutputs), 50)
}

function after(object, name, then) {
  const before = object[name]
  object[name] = function (...given) {
    const result = before?.apply(this, given)
    then(...given)
    return result
  }
}
