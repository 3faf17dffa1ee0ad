// Elements of ours inside nodes, each in a shadow of its own: our style reaches nothing else, and no other pack's
// reaches in.

import { app } from "../../scripts/app.js"

const CLASS = "evlm-element"
const WIDTH = 360

const owners = new WeakMap() // element -> { node, name, beat }
const elements = new WeakMap() // node -> { name: element }

const STYLE = new URL("./evlm.css", import.meta.url).href
fetch(STYLE) // so that the first element does not wait for it

/**
 * Puts content into a node, last among its widgets and not serialised, so that it shifts no saved value.
 *
 * name: the widget's. label: what app mode writes above it. height, maxHeight: pixels. beat(): called before each
 * painting while the element is on screen.
 */
export function addElement(node, name, content, { label, height, maxHeight, beat }) {
  const element = document.createElement("div")
  element.className = CLASS
  element.dataset.evlm = name
  element.dataset.captureWheel = "true" // Nodes 2.0: a focused element scrolls instead of the canvas
  // What the stylesheet's :host says, for the moment before it is there.
  element.style.cssText = `display: flex; flex-direction: column; box-sizing: border-box; min-height: ${height - 20}px`
  const style = document.createElement("link")
  style.rel = "stylesheet"
  style.href = STYLE
  element.attachShadow({ mode: "open" }).append(style, content)
  owners.set(element, { node, name, beat })
  elements.set(node, { ...elements.get(node), [name]: element })
  // serialize in the options: not in the prompt; on the widget: not in the workflow
  const widget = node.addDOMWidget(name, name, element, {
    serialize: false,
    hideOnZoom: true,
    getValue: () => "",
    setValue: () => {},
    getMinHeight: () => height,
    ...(maxHeight === undefined ? {} : { getMaxHeight: () => maxHeight }),
  })
  widget.serialize = false
  if (label) widget.label = label
  passOn(element, content)
  const [width, least] = node.computeSize()
  node.setSize([Math.max(node.size[0], width, WIDTH), Math.max(node.size[1], least)])
}

// Nodes 2.0 keeps the frame of a node by its number, and what was put into it once. After undo, redo or a change of
// graph another node of the same number lives there, and the frame still shows what belonged to the dead one. So
// before each painting what is on the screen is held against what lives; and a value that was set without a word (by
// code, a linked input, another extension) is noticed at the same time.
function beat() {
  requestAnimationFrame(beat)
  for (const shown of [...document.getElementsByClassName(CLASS)]) {
    const right = heir(shown) ?? shown
    if (right !== shown) shown.replaceWith(right)
    owners.get(right)?.beat?.()
  }
}
requestAnimationFrame(beat)

/** The element that belongs where this one is: of the node that has this number in the graph on screen. */
function heir(shown) {
  const owner = owners.get(shown)
  const id = shown.closest("[data-node-id]")?.dataset.nodeId // Nodes 2.0 alone has such frames
  return owner && id !== undefined ? elementIn(app.canvas?.graph?.getNodeById?.(id), owner) : undefined
}

function elementIn(node, owner) {
  if (!node) return undefined
  if (node.comfyClass === owner.node.comfyClass) return elements.get(node)?.[owner.name]
  if (!node.subgraph) return undefined
  // a subgraph's node shows what is inside of it
  const inner = node.subgraph.getNodeById?.(owner.node.id)
  if (inner) return elementIn(inner, owner)
  for (const each of node.subgraph.nodes ?? []) {
    const found = each.subgraph && elementIn(each, owner)
    if (found) return found
  }
  return undefined
}

/** The canvas keeps its gestures over the element: zooming, panning with the wheel button, scrolling past its end. */
function passOn(element, content) {
  element.addEventListener(
    "wheel",
    (event) => {
      const scrolls = content.scrollHeight > content.clientHeight && Math.abs(event.deltaY) >= Math.abs(event.deltaX)
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
