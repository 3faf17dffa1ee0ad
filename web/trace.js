// The trace's text, cut into its parts while it is still being written. Follows evlm/plan/trace.py; knows no DOM.

export const PARTS = ["thinking", "intermediate", "reflection", "output"]
const FIELDS = ["instruction", "targets", "scope", "mask"]

const NAMES = "thinking|think|intermediate|reflection|output"
const TOKEN = new RegExp(String.raw`\\[^]|<[ \t]{0,3}(/?)[ \t]{0,3}(${NAMES})[ \t]{0,3}>`, "gi")
const OPEN_TAIL = /<[ \t]{0,3}\/?[ \t]{0,3}([a-z]{0,12})[ \t]{0,3}$/i
const FIELD_LINE = /^[\s>#*\-"']{0,8}(instruction|targets|scope|mask)[\s*"']{0,4}[:=][ \t*]{0,4}(.*)$/i
const LONGEST_TAIL = 32

/**
 * What a trace's text says so far.
 *
 * text: everything that the model has written. done: nothing will follow; else a beginning of a tag at the end is
 * held back until it is decided.
 * Returns thinking, intermediate, reflection and output (each trimmed, "" where it has not begun), instruction,
 * targets (a list), scope and mask as far as <output> names them, outside (text that stands in no part), repairs
 * (none: only the server mends), and writing: the part that is being written, "" when there is none.
 */
export function splitTrace(text, done = false) {
  text = asText(text)
  const read = done ? text : text.slice(0, undecidedFrom(text))
  const parts = {}
  const outside = []
  let part = ""
  let start = 0
  const close = (name, end) => {
    const content = read.slice(start, end).trim()
    if (!name) {
      if (content) outside.push(content)
    } else if (!(name in parts) || (name === "output" && content)) {
      parts[name] = content // of prose the first counts, of outputs the last
    }
  }
  for (const token of read.matchAll(TOKEN)) {
    if (!token[2]) continue // an escaped character
    const name = token[2].toLowerCase().replace(/^think$/, "thinking")
    const opened = token[1] && !part && !(name in parts) // "</think>" alone: its beginning was in the prompt
    close(opened ? name : part, token.index)
    part = token[1] ? "" : name
    start = token.index + token[0].length
  }
  close(part, read.length)
  const output = parts.output ?? ""
  return {
    thinking: unescape(parts.thinking ?? ""),
    intermediate: unescape(parts.intermediate ?? ""),
    reflection: unescape(parts.reflection ?? ""),
    output,
    ...readFields(output),
    outside: unescape(outside.join("\n")),
    repairs: [],
    writing: done ? "" : part,
  }
}

/** A trace as the server sends it with a finished node, made safe: every value of the type that is expected. */
export function readMessage(value) {
  const trace = value !== null && typeof value === "object" ? value : {}
  const fields = {
    instruction: asText(trace.instruction),
    targets: Array.isArray(trace.targets) ? trace.targets.map(asText) : splitLabels(asText(trace.targets)),
    scope: asText(trace.scope),
    mask: asText(trace.mask),
  }
  return {
    thinking: asText(trace.thinking),
    intermediate: asText(trace.intermediate),
    reflection: asText(trace.reflection),
    output: renderFields(fields),
    ...fields,
    outside: "",
    repairs: Array.isArray(trace.repairs) ? trace.repairs.map(asText) : [],
    writing: "",
  }
}

/** The texts of one run, one for each picture of a batch, put together from "evlm.trace" messages. */
export class Pages {
  #pages = []

  get length() {
    return this.#pages.length
  }

  /** Takes a message: the whole text of the picture at hand, and whether it is finished. */
  feed(text, done) {
    const last = this.#pages.at(-1)
    text = asText(text)
    if (last?.done && done && last.text === text) return // said twice
    const goesOn = last && !last.done && text.startsWith(last.text)
    if (goesOn) this.#pages.pop()
    this.#pages.push({ text, done: Boolean(done) })
  }

  /** No more will come: what is there counts as finished. */
  finish() {
    const last = this.#pages.at(-1)
    if (last) last.done = true
  }

  clear() {
    this.#pages = []
  }

  /** All pages, split. */
  traces() {
    return this.#pages.map((page) => splitTrace(page.text, page.done))
  }
}

/** Nodes by the ids that the server and the frontend use: "7", "5:3" inside subgraph node 5, "<subgraph uuid>:3". */
export function findNode(rootGraph, id) {
  const path = String(id ?? "").split(":")
  const last = path.pop()
  let graph = rootGraph
  for (const step of path) graph = graph?.subgraphs?.get?.(step) ?? graph?.getNodeById?.(step)?.subgraph
  return (last && graph?.getNodeById?.(last)) || null
}

// Where the tail begins that may yet become a tag or an escape.
function undecidedFrom(text) {
  const tail = text.slice(-LONGEST_TAIL)
  const found = OPEN_TAIL.exec(tail)
  if (found && NAMES.split("|").some((name) => name.startsWith(found[1].toLowerCase()))) {
    const at = text.length - tail.length + found.index
    if (!isEscaped(text, at)) return at
  }
  return isEscaped(text, text.length) ? text.length - 1 : text.length
}

// Whether the character at `at` stands behind an odd number of backslashes.
function isEscaped(text, at) {
  let slashes = 0
  while (text[at - 1 - slashes] === "\\") slashes += 1
  return slashes % 2 === 1
}

function readFields(output) {
  const values = {}
  for (const line of output.split("\n")) {
    const found = FIELD_LINE.exec(line)
    if (found) values[found[1].toLowerCase()] ??= found[2].trim()
  }
  return {
    instruction: unescape(values.instruction ?? ""),
    targets: splitLabels(values.targets ?? ""),
    scope: values.scope ?? "",
    mask: unescape(values.mask ?? ""),
  }
}

function renderFields(fields) {
  const values = { ...fields, targets: fields.targets.join("; ") || "none" }
  const given = FIELDS.filter((name) => values[name] && (name !== "targets" || fields.instruction))
  return given.map((name) => `${name}: ${values[name]}`).join("\n")
}

// "a; b\;c" -> ["a", "b;c"]; "none" alone is no label.
function splitLabels(text) {
  if (text.trim().toLowerCase() === "none") return []
  const pieces = text.match(/(?:\\[^]|[^;\\]|\\$)+/g) ?? []
  return pieces.map((piece) => unescape(piece.trim())).filter(Boolean)
}

function unescape(text) {
  return text.replace(/\\([\\nr;<])/g, (_, letter) => ({ n: "\n", r: "\r" })[letter] ?? letter)
}

function asText(value) {
  if (typeof value === "string") return value
  return typeof value === "number" || typeof value === "boolean" ? String(value) : ""
}
