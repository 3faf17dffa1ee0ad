// Run by test_trace_js.py: node trace_checks.mjs CASES.json, beside copies of the modules under test.
import assert from "node:assert/strict"
import { readFileSync } from "node:fs"

import { earlierOutput } from "./history.mjs"
import { drawSteps } from "./steps.mjs"
import { STRINGS, translator } from "./strings.mjs"
import { labelled } from "./labels.mjs"
import { placeOf } from "./places.mjs"
import { readable } from "./readable.mjs"
import { findNode, Pages, PARTS, readMessage, splitTrace } from "./trace.mjs"

const { rendered, loose, places } = JSON.parse(readFileSync(process.argv[2], "utf8"))

const checks = {
  "a finished trace reads as Python reads it"() {
    for (const { text, trace } of [...rendered, ...loose]) {
      const { thinking, intermediate, reflection, instruction, targets, scope, mask, steps } = splitTrace(text, true)
      assert.deepEqual({ thinking, intermediate, reflection, instruction, targets, scope, mask, steps }, trace)
    }
  },

  "while it is written, each part only grows, and no piece of a tag is ever shown"() {
    for (const { text } of rendered) {
      let before = splitTrace("")
      for (let end = 0; end <= text.length; end++) {
        const now = splitTrace(text.slice(0, end))
        for (const part of PARTS) assert.ok(now[part].startsWith(before[part]), `${part} at ${end} of ${text}`)
        assert.equal(now.outside, "")
        before = now
      }
    }
  },

  "the part that is being written is named"() {
    assert.equal(splitTrace("").writing, "")
    assert.equal(splitTrace("<thinking>a").writing, "thinking")
    assert.equal(splitTrace("<thinking>a</thinking>\n").writing, "")
    assert.equal(splitTrace("<thinking>a</thinking><output>\ninstr").writing, "output")
    assert.equal(splitTrace("<thinking>a", true).writing, "")
  },

  "a tag's beginning is held back, a mere < is not"() {
    assert.equal(splitTrace("<thinking>a <").thinking, "a")
    assert.equal(splitTrace("<thinking>a </thi").thinking, "a")
    assert.equal(splitTrace("<thinking>a < b").thinking, "a < b")
    assert.equal(splitTrace("<thinking>a </thi", true).thinking, "a </thi")
    assert.equal(splitTrace("<thinking>a \\<").thinking, "a <")
    assert.equal(splitTrace("<thinking>a \\").thinking, "a")
  },

  "tags inside a thought are not parts, while it is written and after"() {
    const text = "<think>I must write <thinking>, then <output>\ninstruction: draft</output> so</think><thinking>real</thinking>"
    for (let end = 7; end < text.indexOf("</think>"); end++) {
      const now = splitTrace(text.slice(0, end))
      assert.equal(now.writing, "thinking")
      assert.equal(now.output + now.outside, "")
      assert.ok("I must write <thinking>, then <output>\ninstruction: draft</output> so".startsWith(now.thinking))
    }
    assert.equal(splitTrace(text).thinking, "real")
    assert.equal(splitTrace(text).output, "")
    assert.equal(splitTrace("[THINK]a <output>b").thinking, "a <output>b")
    assert.equal(splitTrace("<think>long</think><thinking>\n</thinking><intermediate>b").thinking, "long")
  },

  "text without any tag is shown as what it is"() {
    const trace = splitTrace("Sure! Make the car red.", true)
    assert.equal(trace.outside, "Sure! Make the car red.")
    assert.equal(trace.instruction, "")
  },

  "an end whose beginning was in the prompt still makes a part"() {
    assert.equal(splitTrace("hm, the car</think>\n<output>\ninstruction: x").thinking, "hm, the car")
  },

  "nothing throws, whatever comes"() {
    const hostile = [undefined, null, 7, {}, [], "<".repeat(5000), "\\".repeat(4999), "<output>".repeat(999), "\u0000<thinking>\ud800"]
    for (const text of hostile) for (const done of [true, false]) splitTrace(text, done)
    for (const value of [undefined, null, 7, "x", [], { targets: 3, repairs: {}, mask: null, thinking: [] }]) {
      const trace = readMessage(value)
      assert.equal(typeof trace.thinking, "string")
      assert.ok(Array.isArray(trace.targets) && Array.isArray(trace.repairs))
    }
  },

  "half a megabyte is split at once"() {
    const text = "<thinking>" + "a < b \\< </thin ".repeat(32768)
    const start = performance.now()
    splitTrace(text)
    assert.ok(performance.now() - start < 2000)
  },

  "a message of the server becomes what the view draws"() {
    const trace = readMessage({ thinking: "t", instruction: "make it red", targets: ["car", 2], scope: "local", mask: "none", repairs: ["r"] })
    assert.deepEqual(trace.targets, ["car", "2"])
    assert.deepEqual(trace.repairs, ["r"])
    assert.equal(trace.output, "instruction: make it red\ntargets: car; 2\nscope: local\nmask: none")
  },

  "the steps of a plan, as the server sends them"() {
    const step = { instruction: "make it red", targets: ["car"], scope: "local", mask: "box 0 0 500 500 full" }
    const other = { instruction: "remove it", targets: "dog; cat", scope: 3, mask: null }
    const trace = readMessage({ instruction: "both", steps: [step, other] })
    assert.deepEqual(trace.steps, [step, { instruction: "remove it", targets: ["dog", "cat"], scope: "3", mask: "" }])
    assert.equal(trace.output.split("instruction: ").length, 3)
    assert.deepEqual(readMessage({ steps: [step] }).steps, [])
    assert.equal(readMessage({ steps: Array(99).fill(step) }).steps.length, 4)
    for (const wrong of [null, {}, 7, [null, []], "x"]) assert.ok(Array.isArray(readMessage({ steps: wrong }).steps))
  },

  "a place is what Python decodes of it"() {
    for (const { text, mask } of places) {
      const size = mask.length
      const found = placeOf(text)
      const on = (x, y) => found.some(([x0, y0, x1, y1]) => x0 <= x && x < x1 && y0 <= y && y < y1)
      const middle = (at) => ((at + 0.5) * 1000) / size
      const drawn = mask.map((row, y) => row.map((_, x) => Number(on(middle(x), middle(y)))))
      assert.deepEqual(drawn, mask, text)
    }
  },

  "steps are drawn with number, words and place, and drawn anew only when they change"() {
    const element = (tag) => ({
      tag,
      dataset: {},
      attributes: {},
      children: [],
      append(child) { this.children.push(child) },
      setAttribute(name, value) { this.attributes[name] = value },
      replaceChildren() { this.children = [] },
    })
    globalThis.document = { createElementNS: (_, tag) => element(tag) }
    const make = (tag, className, parent, text) => {
      const made = Object.assign(element(tag), { className, textContent: text })
      parent?.append(made)
      return made
    }
    const texts = (each) => [each.textContent ?? "", ...each.children.map(texts)].filter(Boolean).join(" ")
    const list = element("ol")
    const steps = [
      { instruction: "make it <b>red</b>", targets: ["car"], scope: "local", mask: "box 0 0 500 500 full" },
      { instruction: "make it snow", targets: [], scope: "global", mask: "" },
    ]
    drawSteps(list, steps, { t: translator("en"), make })
    assert.deepEqual(list.children.map(texts), ["1 make it <b>red</b> car", "2 make it snow whole picture"])
    const maps = list.children.map((item) => item.children[1])
    assert.deepEqual(maps.map((map) => map.children.length), [1, 0])
    assert.deepEqual(maps[0].children[0].attributes, { x: "0", y: "0", width: "500", height: "500" })
    assert.deepEqual(maps.map((map) => map.attributes["aria-label"]), ["place of step 1", "place of step 2"])
    assert.equal(new Set(list.children.map((item) => item.className)).size, 2)
    const before = list.children
    drawSteps(list, [...steps], { t: translator("en"), make })
    assert.equal(list.children, before)
    drawSteps(list, [], { t: translator("en"), make })
    assert.ok(list.hidden && !list.children.length)
  },

  "pages: one for each picture, the last growing"() {
    const pages = new Pages()
    for (const [text, done] of [["<thi", false], ["<thinking>a", false], ["<thinking>a</thinking>", true]]) pages.feed(text, done)
    assert.equal(pages.length, 1)
    pages.feed("<thinking>a</thinking>", true)
    assert.equal(pages.length, 1)
    pages.feed("<thinking>b", false)
    assert.deepEqual(pages.traces().map((trace) => trace.thinking), ["a", "b"])
    assert.equal(pages.traces()[1].writing, "thinking")
    pages.finish()
    assert.equal(pages.traces()[1].writing, "")
    pages.feed("<thinking>c", false) // the picture before was stopped: this is another
    assert.equal(pages.length, 3)
    pages.clear()
    assert.equal(pages.length, 0)
  },

  "nodes are found at the root, in subgraphs and by locator"() {
    const graph = (nodes, subgraphs) => ({ subgraphs: new Map(Object.entries(subgraphs ?? {})), getNodeById: (id) => nodes[id] ?? null })
    const inner = { name: "inner" }
    const deep = graph({ 3: inner })
    const middle = graph({ 9: { subgraph: deep } })
    const root = graph({ 3: { name: "outer" }, 5: { subgraph: middle } }, { "0f-uuid": deep })
    assert.equal(findNode(root, "3").name, "outer")
    assert.equal(findNode(root, 3).name, "outer")
    assert.equal(findNode(root, "5:9:3"), inner)
    assert.equal(findNode(root, "0f-uuid:3"), inner)
    for (const id of ["4", "5:4", "3:1", "", ":", null, undefined, "nope:3", {}]) assert.equal(findNode(root, id), null)
    assert.equal(findNode(undefined, "3"), null)
  },

  "a cached node shows what it showed when it ran with the same inputs"() {
    const graph = (seed, prompt = "a") => ({
      1: { class_type: "Load", inputs: { name: prompt } },
      2: { class_type: "Reason", inputs: { image: ["1", 0], again: ["1", 0], size: [3, 4] } },
      3: { class_type: "Edit", inputs: { plan: ["2", 0], seed } },
    })
    const run = (made, outputs) => ({ prompt: [0, "id", made], outputs })
    const history = {
      p1: run(graph(1), { 2: "older", 3: "one" }),
      p2: run(graph(2), { 2: "newer", 3: "two" }),
      p3: run(graph(2, "b"), { 2: "other words", 3: "other words" }),
      p4: run(graph(2), {}),
    }
    assert.equal(earlierOutput(history, graph(1), "2"), "newer") // its own seed is not among what it needs
    assert.equal(earlierOutput(history, graph(1), "3"), "one")
    assert.equal(earlierOutput(history, graph(3), "3"), undefined)
    assert.equal(earlierOutput({ odd: null, empty: {} }, graph(1), "2"), undefined)
    assert.equal(earlierOutput(null, { 1: { inputs: { self: ["1", 0] } } }, "1"), undefined)
  },

  "a trace is shown in sentences, without the model's marks"() {
    const said = "reference 1 : large yellow dotted square . original : small blue striped = ring left , red * cross ; grey ."
    assert.equal(
      readable(said),
      "Reference 1: large yellow dotted square. Original: small blue striped ring left, red cross; grey.",
    )
    const prose = "The user wants x = 3, and 2 * 2. Nothing else; fine."
    assert.equal(readable(prose), prose)
    assert.equal(readable("large yellow = dotted ,"), "Large yellow dotted,")
    for (const none of ["", undefined, null]) assert.equal(readable(none), "")
  },

  "a 0 says the model's own value"() {
    assert.equal(labelled("steps", 0, 20), "steps: 20 (model)")
    assert.equal(labelled("guidance", 0, 7.5), "guidance: 7.5 (model)")
    assert.equal(labelled("steps", 12, 20), "steps")
    for (const none of [undefined, null, "20", NaN]) assert.equal(labelled("steps", 0, none), "steps")
  },

  "the extension speaks the language of the frontend, or English"() {
    assert.equal(translator("de")("thinking"), "Gedanken")
    assert.equal(translator("de-AT")("page", 2, 5), "2 / 5")
    assert.equal(translator("ja")("thinking"), "Thinking")
    for (const words of Object.values(STRINGS)) assert.deepEqual(Object.keys(words), Object.keys(STRINGS.en))
    assert.equal(translator(undefined)("rows", 12, 9, 3, "evlm_ratings"), "12 rows: 9 good, 3 bad → output/evlm_ratings")
  },
}

for (const [name, check] of Object.entries(checks)) {
  try {
    check()
  } catch (error) {
    console.error(`FAILED: ${name}\n${error.stack}`)
    process.exitCode = 1
  }
}
console.log(`${Object.keys(checks).length} checks`)
