// The trace's text, cut into its parts while it is still being written. Follows evlm/plan/trace.py; knows no DOM.

export const PARTS = ["thinking", "intermediate", "reflection", "output"]
const FIELDS = ["instruction", "targets", "scope", "mask"]
const MOST_STEPS = 4
const COMPOUND = " ; then " // between the instructions of several steps

const NAMES = "thinking|think|intermediate|reflection|output"
const TOKEN = new RegExp(String.raw`\\[^]|<[ \t]{0,3}(/?)[ \t]{0,3}(${NAMES})[ \t]{0,3}>`, "gi")
// What models write around what they think before they answer; evlm/plan/parts.py has the same list.
const THOUGHTS = [
  ...["think", "thought", "thoughts", "reasoning", "analysis", "scratchpad"].map((name) => [`<${name}>`, `</${name}>`]),
  ["<seed:think>", "</seed:think>"],
  ["[THINK]", "[/THINK]"],
  ["\u25c1think\u25b7", "\u25c1/think\u25b7"],
  ["<|begin_of_thought|>", "<|end_of_thought|>"],
  ["<|START_THINKING|>", "<|END_THINKING|>"],
  ["<|channel|>analysis<|message|>", "<|channel|>final<|message|>"],
]
const literal = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")
const THOUGHT = new RegExp(
  String.raw`\\[^]|(?<begin>${THOUGHTS.map(([begin]) => literal(begin)).join("|")})|(?<end>${THOUGHTS.map(([, end]) => literal(end)).join("|")})`,
  "gi",
)
const OPEN_TAIL = /<[ \t]{0,3}\/?[ \t]{0,3}([a-z]{0,12})[ \t]{0,3}$/i
const FIELD_LINE =
  /^[\s>#*\-"'`_•·|([]{0,8}(?:\(?[0-9]{1,2}[.)\uff0e\u3001][\s*"'`_]{0,6})?(instruction|targets|scope|mask)[\s*"'`_)\]}|]{0,6}[:=\uff1a\uff1d][\s*_]{0,4}(.*)$/i
const LABEL_TOKEN = /\\[^]|[;,\uff1b\uff0c\u3001|]|(?:(?<!\S)|(?<=[\p{L}\p{N}_]{3}))\.(?=\s|$)/gu
const NO_LABEL = ["none", "null", "nil", "n/a", "na", "-", "--", "nothing", "no target", "no targets"]
const AROUND = { "[": "]", "(": ")", "{": "}" }
const LONGEST_TAIL = 32

/**
 * What a trace's text says so far.
 *
 * text: everything that the model has written. done: nothing will follow; else a beginning of a tag at the end is
 * held back until it is decided.
 * Returns thinking, intermediate, reflection and output (each trimmed, "" where it has not begun), instruction,
 * targets (a list), scope and mask as far as <output> names them, steps (the same of each edit, where there are
 * several; else empty), outside (text that stands in no part), repairs
 * (none: only the server mends), confidence (null: only the server knows), and writing: the part that is being written, "" when there is none.
 */
export function splitTrace(text, done = false) {
  text = asText(text)
  const read = done ? text : text.slice(0, undecidedFrom(text))
  const { answer, thoughts, open } = splitThoughts(read, done)
  const { parts, outside, part } = findParts(answer)
  const thought = thoughts.join("\n").trim()
  const own = (parts.thinking ?? "").trim()
  if (own && thought) outside.unshift(thought)
  const output = parts.output ?? ""
  return {
    thinking: unescape(own || thought),
    intermediate: unescape(parts.intermediate ?? ""),
    reflection: unescape(parts.reflection ?? ""),
    output,
    ...readFields(output),
    outside: unescape(outside.join("\n")),
    repairs: [],
    confidence: null,
    writing: done ? "" : open ? "thinking" : part,
  }
}

// The answer apart from what was thought before it; a thought whose beginning stood in the prompt reaches from the
// start to the first end. While the text grows, a thought that has not ended yet is one all the same.
function splitThoughts(text, done) {
  const thoughts = []
  let answer = ""
  let start = 0
  let begin = -1
  for (const token of text.matchAll(THOUGHT)) {
    const { begin: begins, end: ends } = token.groups
    if (begins && begin < 0) {
      answer += text.slice(start, token.index)
      start = token.index
      begin = start + begins.length
    } else if (ends && (begin >= 0 || !(thoughts.length || answer))) {
      thoughts.push(withoutLeadingTag(text.slice(Math.max(begin, 0), token.index)).trim())
      start = token.index + ends.length
      begin = -1
    }
  }
  const open = !done && begin >= 0 && !answer.trim()
  if (open) thoughts.push(text.slice(begin).trim())
  else answer += text.slice(start)
  return { answer, thoughts, open }
}

function withoutLeadingTag(thought) {
  return thought.replace(/^\s*<[ \t]{0,3}think(?:ing)?[ \t]{0,3}>/i, "")
}

// The parts by their tags, what stands outside of them, and the part that is not ended.
function findParts(text) {
  let parts = {}
  let outputs = []
  let part = ""
  let start = 0
  const outside = []
  const nests = {} // by part of prose that did not end: how things stood then, as what follows may lie inside it
  const keep = (name, from, end, closed) => {
    const content = text.slice(from, end).trim()
    if (name === "output") outputs.push({ content, closed })
    if (!(name in parts)) parts[name] = content
  }
  const leaveOut = (end) => {
    const content = text.slice(start, end).trim()
    if (content) outside.push(content)
  }
  const tags = [...text.matchAll(TOKEN)].filter((token) => token[2])
  const nameOf = (token) => token[2].toLowerCase().replace(/^think$/, "thinking")
  const lastBegin = {}
  for (const token of tags) if (!token[1]) lastBegin[nameOf(token)] = token.index
  const comesAgain = (name, at) => {
    const nest = nests[name]
    const inside = Object.keys(parts).filter((each) => !(each in nest.parts) && each !== name)
    if (outputs.length > nest.outputs.length) inside.push("output")
    if (part && part !== name) inside.push(part)
    return inside.some((each) => lastBegin[each] > at)
  }
  for (const token of tags) {
    const name = nameOf(token)
    const ends = Boolean(token[1])
    const closed = ends && name === part
    if (ends && !closed && nests[name] && comesAgain(name, token.index)) {
      const nest = nests[name]
      delete nests[name]
      ;({ parts, outputs } = nest)
      outside.length = nest.outside
      keep(name, nest.start, token.index, true)
    } else if (part) {
      if (closed) delete nests[name]
      else if (part !== "output" && !nests[part]) {
        nests[part] = { start, parts: { ...parts }, outputs: [...outputs], outside: outside.length }
      }
      keep(part, start, token.index, closed)
    } else if (ends && !(name in parts)) keep(name, start, token.index, true)
    else if (!ends || name in parts) leaveOut(token.index)
    part = ends ? "" : name
    start = token.index + token[0].length
  }
  if (part) keep(part, start, text.length, false)
  else leaveOut(text.length)
  const good = outputs.filter(({ content, closed }) => content && (closed || readFields(content).instruction))
  if (outputs.length) parts.output = (good.at(-1) ?? outputs[0]).content
  return { parts, outside, part }
}

/** A trace as the server sends it with a finished node, made safe: every value of the type that is expected. */
export function readMessage(value) {
  const trace = value !== null && typeof value === "object" ? value : {}
  const fields = readStep(trace)
  const several = (Array.isArray(trace.steps) ? trace.steps : []).slice(0, MOST_STEPS).map(readStep)
  const steps = several.length > 1 ? several : []
  const sure = trace.confidence
  return {
    thinking: asText(trace.thinking),
    intermediate: asText(trace.intermediate),
    reflection: asText(trace.reflection),
    output: (steps.length ? steps : [fields]).map(renderFields).join("\n"),
    ...fields,
    steps,
    outside: "",
    repairs: Array.isArray(trace.repairs) ? trace.repairs.map(asText) : [],
    confidence: typeof sure === "number" && sure >= 0 && sure <= 1 ? sure : null,
    writing: "",
  }
}

function readStep(value) {
  const step = value !== null && typeof value === "object" ? value : {}
  return {
    instruction: asText(step.instruction),
    targets: Array.isArray(step.targets) ? step.targets.map(asText) : splitLabels(asText(step.targets)),
    scope: asText(step.scope),
    mask: asText(step.mask),
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
  const lines = [{}]
  for (const line of output.split(/\r\n|[\n\r\u2028]/)) {
    const found = FIELD_LINE.exec(line)
    if (!found) continue
    const name = found[1].toLowerCase()
    const whole = ["instruction", "targets", "scope"].every((each) => each in lines.at(-1))
    if (name === "instruction" && whole && lines.length < MOST_STEPS) lines.push({})
    lines.at(-1)[name] ??= found[2].trim()
  }
  const steps = lines.map((values) => ({
    instruction: unescape(values.instruction ?? ""),
    targets: splitLabels(values.targets ?? ""),
    scope: values.scope ?? "",
    mask: unescapeList(values.mask ?? ""),
  }))
  if (steps.length === 1) return { ...steps[0], steps: [] }
  return {
    instruction: steps.map((step) => step.instruction).join(COMPOUND),
    targets: [...new Set(steps.flatMap((step) => step.targets))],
    scope: steps.some((step) => step.scope === "global") ? "global" : steps[0].scope,
    mask: "",
    steps,
  }
}

function renderFields(fields) {
  const values = { ...fields, targets: fields.targets.join("; ") || "none" }
  const given = FIELDS.filter((name) => values[name] && (name !== "targets" || fields.instruction))
  return given.map((name) => `${name}: ${values[name]}`).join("\n")
}

// "a; b\;c" -> ["a", "b;c"]; "none" alone is no label. Other models write "a, b", "a . b", "[a, b]".
function splitLabels(text) {
  text = text.trim()
  if (AROUND[text[0]] === text.at(-1)) text = text.slice(1, -1)
  if (!text.trim() || NO_LABEL.includes(text.trim().toLowerCase())) return []
  const pieces = []
  let start = 0
  for (const token of text.matchAll(LABEL_TOKEN)) {
    if (token[0][0] === "\\") continue
    pieces.push(text.slice(start, token.index))
    start = token.index + token[0].length
  }
  pieces.push(text.slice(start))
  return pieces.map((piece) => unescapeList(unquoted(piece.trim()))).filter(Boolean)
}

function unquoted(text) {
  const inner = /^(["'`])([^]*)\1$/.exec(text)?.[2] ?? /^\u201c([^]*)\u201d$/.exec(text)?.[1]
  return inner === undefined || /["'`\u201d]/.test(inner) ? text : inner.trim()
}

// In labels and masks more is escaped.
function unescapeList(text) {
  return text.replace(/\\([\\nr<.;,\uff1b\uff0c\u3001|[({"'\u201c`])/g, (_, letter) => ({ n: "\n", r: "\r" })[letter] ?? letter)
}

function unescape(text) {
  return text.replace(/\\([\\nr;<])/g, (_, letter) => ({ n: "\n", r: "\r" })[letter] ?? letter)
}

function asText(value) {
  if (typeof value === "string") return value
  return typeof value === "number" || typeof value === "boolean" ? String(value) : ""
}
