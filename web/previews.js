// What the frontend shows of a node while it runs, taken away when its result is there: else Nodes 2.0 shows both.

import { app } from "../../scripts/app.js"
import { numberOf } from "./runs.js"

const TEXT = "$$node-text-preview" // the widget that holds a node's progress text

/** The last live picture of a node gives way to its output. Older frontends do that by themselves. */
export function endPicture(node) {
  // The frontend has no door for this but the store that keeps the pictures.
  app.extensionManager?._p?._s?.get?.("nodeOutput")?.revokePreviewsByExecutionId?.(numberOf(node))
}

/** Its progress text too, as newer frontends do at a run's end. */
export function endText(node) {
  const at = node.widgets?.findIndex((widget) => widget.name === TEXT) ?? -1
  if (at < 0) return
  node.widgets[at].onRemove?.()
  node.widgets.splice(at, 1)
}
