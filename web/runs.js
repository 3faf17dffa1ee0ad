// What runs say about our nodes: traces while they are written, and what nodes end with.
//
// It is kept by the node's number, as the server names it, and not by the node: undo makes every node anew, and a page
// that was loaded anew asks the server for what it has missed.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"
import { earlierOutput } from "./history.js"
import { findNode, Pages, readMessage } from "./trace.js"

const told = new Map() // id -> { type, graph, prompt, pages, note, traces, ended }
const mute = new Set() // types of nodes that have nothing to show, as far as was seen
let running = null // the prompt's id
let cached = new Set() // ids of nodes that did not run in it

const root = () => app.rootGraph ?? app.graph
const nodeOf = (id) => findNode(root(), id)
const isOurs = (node) => String(node?.comfyClass ?? "").startsWith("EVLM_")

/**
 * show(node, { traces, note }): draw them in a node; note is "", "writing" or "stopped". finish(node, output): what the
 * server sent with a finished node. Returns restore, to be called when nodes were made anew.
 */
export function followRuns({ isTraced, show, finish }) {
  api.addEventListener("execution_start", ({ detail }) => {
    running = detail?.prompt_id ?? null
  })
  api.addEventListener("execution_cached", ({ detail }) => {
    cached = new Set(detail?.nodes)
  })
  api.addEventListener("executing", ({ detail }) => begin(detail))
  api.addEventListener("evlm.trace", ({ detail }) => write(detail ?? {}))
  for (const event of ["execution_error", "execution_interrupted"]) api.addEventListener(event, stop)
  for (const event of ["execution_success", "execution_error", "execution_interrupted"])
    api.addEventListener(event, ({ detail }) => lookUp(detail?.prompt_id))
  api.addEventListener("reconnected", catchUp)

  function draw(id) {
    const [node, state] = [nodeOf(id), told.get(String(id))]
    if (node && state && node.comfyClass === state.type && root()?.id === state.graph) show(node, state)
  }

  function stateOf(id) {
    const node = nodeOf(id)
    if (!isTraced(node)) return null // the workflow was left while it ran
    const state = told.get(String(id))
    if (state && state.type === node.comfyClass && state.graph === root()?.id) return state
    const fresh = { type: node.comfyClass, graph: root()?.id, prompt: running, pages: new Pages(), traces: [] }
    Object.assign(fresh, { note: "", ended: false })
    told.set(String(id), fresh)
    return fresh
  }

  function begin(id) {
    const before = told.get(String(id))
    if (before && !before.ended && before.pages.length && before.prompt === running) return // said twice
    told.delete(String(id))
    if (stateOf(id)) draw(id)
  }

  function write({ node: id, text, done }) {
    const state = stateOf(id)
    if (!state) return
    state.ended = false
    state.pages.feed(text, done)
    state.note = done ? "" : "writing"
    state.traces = state.pages.traces()
    draw(id)
  }

  function stop({ detail }) {
    const state = told.get(String(detail?.node_id))
    if (!state || state.ended || !state.pages.length) return
    state.pages.finish()
    state.note = "stopped"
    state.traces = state.pages.traces()
    draw(detail.node_id)
  }

  /** A node ended: called by the node itself. */
  function end(node, output) {
    if (isTraced(node) && Array.isArray(output?.evlm_trace)) {
      const state = stateOf(numberOf(node))
      if (!state) return
      Object.assign(state, { ended: true, prompt: running, note: "", traces: output.evlm_trace.map(readMessage), pages: new Pages() })
      show(node, state)
    }
    finish(node, output)
  }

  /** The outputs that the frontend kept (undo, a workflow that comes back), and what is still being written. */
  function restore(outputs) {
    for (const [id, output] of Object.entries(outputs ?? {})) {
      const node = nodeOf(id)
      if (node && isOurs(node)) end(node, output)
    }
    for (const [id, state] of told) if (!state.ended) draw(id)
  }

  // --- what was missed ---

  /** After the page was loaded: what the run at hand, or the last one, has said so far. */
  async function catchUp() {
    const client = api.clientId ?? api.initialClientId ?? ""
    const said = await ask(`/evlm/run?client_id=${encodeURIComponent(client)}`)
    if (!said || (said.workflow && root()?.id && said.workflow !== root().id)) return
    if (said.running) running = said.prompt_id
    for (const [id, { type, output, texts }] of Object.entries(said.nodes ?? {})) {
      const node = nodeOf(id)
      if (node?.comfyClass !== type) continue
      if (output) isBlank(id, node) && sayAgain(id, output, said.prompt_id)
      else if (Array.isArray(texts)) {
        told.delete(id)
        for (const text of texts.slice(0, -1)) write({ node: id, text, done: true })
        if (texts.length) write({ node: id, text: texts.at(-1), done: !said.running })
      }
    }
  }

  /** At a run's end: what was cached, or came while nobody listened. Of what was cached ComfyUI 0.3 tells only at the
   * chain's end, and its fork not even then. */
  async function lookUp(prompt) {
    const left = () => ours().filter(([id, node]) => isBlank(id, node) || isOlder(id, node, prompt))
    if (!prompt || !left().length) return
    const entry = (await ask(`/history/${encodeURIComponent(prompt)}`))?.[prompt]
    const graph = entry?.prompt?.[2] ?? {}
    for (const [id, node] of left()) {
      const isIn = graph[id]?.class_type === node.comfyClass
      if (isIn && entry.outputs?.[id]) sayAgain(id, entry.outputs[id], prompt)
    }
    const silent = left().filter(([id, node]) => graph[id] && cached.has(id) && !mute.has(node.comfyClass))
    if (!silent.length) return
    const history = await ask("/history?max_items=64")
    for (const [id, node] of silent) {
      const output = graph[id].class_type === node.comfyClass && earlierOutput(history, graph, id)
      if (output) sayAgain(id, output, prompt)
      else if (!isTraced(node)) mute.add(node.comfyClass)
    }
  }

  function sayAgain(id, output, prompt) {
    const detail = { node: id, display_node: id, output, prompt_id: prompt, again: true }
    api.dispatchEvent(new CustomEvent("executed", { detail }))
  }

  function isBlank(id, node) {
    return isTraced(node) ? !told.get(id)?.ended : !app.nodeOutputs?.[locatorOf(node)]
  }

  /** Whether a node's trace is not of this run. */
  function isOlder(id, node, prompt) {
    return isTraced(node) && told.get(id)?.prompt !== prompt
  }

  /** heard(id, output): a node ended in a run at this moment; what was cached, or is said again, does not count. */
  function onEnd(heard) {
    api.addEventListener("executed", ({ detail }) => {
      const id = String(detail?.node)
      if (!detail || detail.again || cached.has(id)) return
      setTimeout(() => heard(id, detail.output)) // behind the frontend's own
    })
  }

  return { end, restore, catchUp, onEnd }
}

/** [id, node] of every node of ours, in subgraphs too. */
function ours(graph = root(), before = "") {
  const found = []
  for (const node of graph?.nodes ?? []) {
    const id = before + node.id
    if (isOurs(node)) found.push([id, node])
    if (node.subgraph) found.push(...ours(node.subgraph, `${id}:`))
  }
  return found
}

/** As the server names a node: "7", "5:3" inside subgraph node 5. */
export function numberOf(node) {
  return ours().find(([, each]) => each === node)?.[0] ?? String(node.id)
}

// As the frontend files a node's output.
function locatorOf(node) {
  const isRoot = !node.graph || node.graph === root()
  return isRoot ? String(node.id) : `${node.graph.id}:${node.id}`
}

async function ask(path) {
  try {
    const response = await api.fetchApi(path)
    return response.ok ? await response.json() : null
  } catch {
    return null // the server is gone; it will be asked again
  }
}
