// A plan's mask text as rectangles. Follows evlm/plan/mask_codec.py; knows no DOM.

const GRIDS = [8, 16]

/**
 * "box 120 80 430 390 full" or "box ... rows 2-5 1-6 . 0-1+5-7 ..." -> [[x0, y0, x1, y1], ...] in thousandths of the
 * picture's width and height. Empty for no mask, for the empty one, and for a text that breaks the grammar.
 */
export function placeOf(text) {
  const words = String(text ?? "").trim().split(/\s+/)
  const [name, ...rest] = words
  const numbers = rest.slice(0, 4)
  const [kind, ...rows] = rest.slice(4)
  if (name !== "box" || !numbers.every((word) => /^[0-9]{1,4}$/.test(word) && Number(word) <= 1000)) return []
  const [x0, y0, x1, y1] = numbers.map(Number)
  if (!(x0 < x1 && y0 < y1)) return []
  if (kind === "full") return rows.length ? [] : [[x0, y0, x1, y1]]
  if (kind !== "rows" || !GRIDS.includes(rows.length)) return []
  const grid = rows.length
  const across = (at) => x0 + ((x1 - x0) * at) / grid
  const down = (at) => y0 + ((y1 - y0) * at) / grid
  const found = []
  for (const [row, spans] of rows.entries()) {
    for (const span of spans === "." ? [] : spans.split("+")) {
      const ends = /^([0-9]{1,2})-([0-9]{1,2})$/.exec(span)
      const [low, high] = ends ? [Number(ends[1]), Number(ends[2])] : [1, 0]
      if (low > high || high >= grid) return []
      found.push([across(low), down(row), across(high + 1), down(row + 1)])
    }
  }
  return found
}
