// A button that brings a file of a scene into ComfyUI's input folder, as core has one for pictures.

import { api } from "../../scripts/api.js"
import { app } from "../../scripts/app.js"

const SUFFIXES = ".ply,.splat,.spz,.ksplat"

/** t: translator. The button stands last, and is in no workflow: it shifts no saved value. */
export function addUpload(node, t) {
  const combo = node.widgets?.find((widget) => widget.name === "scene")
  if (!combo) return
  const button = node.addWidget("button", "evlm_upload", "", choose, { serialize: false })
  button.serialize = false
  button.label = t("upload")

  function choose() {
    const picker = document.createElement("input")
    picker.type = "file"
    picker.accept = SUFFIXES
    picker.onchange = () => picker.files.length && upload(picker.files[0])
    picker.click()
  }

  async function upload(file) {
    button.label = t("uploading", file.name)
    try {
      const body = new FormData()
      body.append("image", file)
      const reply = await api.fetchApi("/upload/image", { method: "POST", body })
      if (!reply.ok) throw new Error(`${reply.status} ${reply.statusText}`)
      const { name, subfolder } = await reply.json()
      take(subfolder ? `${subfolder}/${name}` : name)
    } catch (error) {
      app.extensionManager?.toast?.add?.({ severity: "error", summary: t("notUploaded", file.name), detail: String(error) })
    } finally {
      button.label = t("upload")
      node.graph?.setDirtyCanvas?.(true, true)
    }
  }

  function take(name) {
    const known = combo.options?.values
    if (Array.isArray(known) && !known.includes(name)) combo.options.values = [...known, name]
    combo.value = name
    combo.callback?.(name, app.canvas, node)
  }
}
