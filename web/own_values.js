// 0 in a number of an editing node means "the model's own value". After a run the node says which one that is.

import { app } from "../../scripts/app.js"
import { labelled } from "./labels.js"

const NODES = ["EVLM_Edit", "EVLM_QuickEdit", "EVLM_NativeEditor", "EVLM_EditVideo"]

app.registerExtension({
  name: "evlmreflectiveediting.own_values",

  nodeCreated(node) {
    if (!NODES.includes(node.comfyClass)) return
    const plain = new Map() // widget -> its label without the model's value
    let own = {}
    const show = () => {
      for (const widget of node.widgets ?? []) {
        if (!(widget.name in own)) continue
        if (!plain.has(widget)) plain.set(widget, widget.label ?? widget.name)
        widget.label = labelled(plain.get(widget), widget.value, own[widget.name])
      }
      node.setDirtyCanvas?.(true, true)
    }
    const executed = node.onExecuted
    node.onExecuted = function (output) {
      executed?.apply(this, arguments)
      const values = output?.evlm_own_values?.[0]
      if (values && typeof values === "object") own = values
      show()
    }
    for (const widget of node.widgets ?? []) {
      const callback = widget.callback
      if (typeof widget.value !== "number") continue
      widget.callback = function () {
        const result = callback?.apply(this, arguments)
        show()
        return result
      }
    }
  },
})
