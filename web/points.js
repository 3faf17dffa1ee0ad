// Clicks into a clip, as the input `points` of EVLM_Track has them: JSON text. Knows no DOM.

/**
 * text -> [{ x, y, frame, on, row }], row being what stands there; null for a text that is none of ours to change.
 * frame: of a click that names none.
 */
export function readPoints(text, frame = 0) {
  if (!String(text ?? "").trim()) return []
  let rows
  try {
    rows = JSON.parse(text)
  } catch {
    return null
  }
  if (!Array.isArray(rows)) return null
  const points = rows.map((row) => ({
    x: Number(row?.x ?? NaN),
    y: Number(row?.y ?? NaN),
    frame: Number(row?.frame ?? frame),
    on: Boolean(row?.on ?? true),
    row,
  }))
  return points.every(({ x, y, frame: at }) => [x, y, at].every(Number.isFinite)) ? points : null
}

/** The other way: points that nobody touched are written as they stood there. */
export function writePoints(points) {
  return points.length ? `[${points.map(({ row, ...point }) => JSON.stringify(row ?? point)).join(", ")}]` : ""
}

/** Where a click at (left, top) into a picture of this size on the screen lies in the clip, in pixels. */
export function placeIn(left, top, shown, clip) {
  const inside = (value, most) => Math.round(Math.min(Math.max(value, 0), most - 1) * 10) / 10
  return {
    x: inside((left / shown.width) * clip.width - 0.5, clip.width),
    y: inside((top / shown.height) * clip.height - 0.5, clip.height),
  }
}
