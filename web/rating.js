// Two thumbs that set a verdict, and a line that says what is in the dataset.

import { button, make } from "./view.js"

export const NOT_RATED = "not rated"

/**
 * t: translator. onVerdict(value): the rater pressed a thumb; "good", "bad", or "not rated" when it was pressed already.
 * Returns element, setVerdict(value, linked), setRows(message).
 */
export function createRating({ t, onVerdict }) {
  const element = make("div", "evlm-rating")
  const row = make("div", "evlm-thumbs", element)
  const thumbs = {
    good: button(row, "", t("good"), () => press("good")),
    bad: button(row, "", t("bad"), () => press("bad")),
  }
  for (const thumb of Object.values(thumbs)) thumb.append(drawThumb())
  thumbs.bad.classList.add("evlm-down")
  const line = make("div", "evlm-rows", element)
  let verdict = NOT_RATED
  setVerdict(verdict, false)

  function press(value) {
    onVerdict(verdict === value ? NOT_RATED : value)
  }

  function setVerdict(value, linked) {
    verdict = value
    for (const [name, thumb] of Object.entries(thumbs)) {
      thumb.setAttribute("aria-pressed", String(!linked && name === value))
      thumb.disabled = Boolean(linked)
      thumb.title = linked ? t("linked") : t(name)
    }
  }

  /** message: {rows, good, bad, folder, written} of the server, or undefined while nothing is known. */
  function setRows(message) {
    line.textContent = message ? describe(t, message) : ""
  }

  return { element, setVerdict, setRows }
}

// Drawn, for a system without an emoji font shows two equal boxes.
function drawThumb() {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag))
  svg.setAttribute("viewBox", "0 0 24 24")
  svg.setAttribute("aria-hidden", "true")
  path.setAttribute(
    "d",
    "M2 10h4v11H2zM8 20V10l5-8c1.6 0 2.6 1.2 2.2 2.8L14 9h6.2c1.3 0 2.1 1.2 1.7 2.4l-2.6 8.2c-.3.9-1 1.4-1.9 1.4H9.5C8.7 21 8 20.6 8 20z",
  )
  svg.append(path)
  return svg
}

/** Whether a message is of the workflow on screen, as far as both say which they are. */
export const isOfWorkflow = (message, workflow) => !message.workflow || !workflow || message.workflow === workflow

/** "12 rows: 9 good, 3 bad → output/evlm_ratings" */
export function describe(t, message) {
  const [rows, good, bad] = [message.rows, message.good, message.bad].map((value) => Number(value) || 0)
  const text = t(rows === 1 ? "oneRow" : "rows", rows, good, bad, String(message.folder ?? ""))
  return message.written === false ? `${text} (${t("unwritten")})` : text
}
