// Run by test_points_js.py: node points_checks.mjs, beside a copy of the module under test.
import assert from "node:assert/strict"

import { placeIn, readPoints, writePoints } from "./points.mjs"

assert.deepEqual(readPoints(""), [])
assert.deepEqual(readPoints("  "), [])
for (const text of ["x", "{}", "[1]", '[{"x": 1}]', '[{"x": "a", "y": 2}]', "[{'x': 1, 'y': 2}]"])
  assert.equal(readPoints(text), null, text)

const text = '[{"x":10,"y":20,"label":"cup"}, {"x":1.5,"y":2,"frame":7,"on":false}]'
const points = readPoints(text, 3)
assert.deepEqual(points.map(({ x, y, frame, on }) => [x, y, frame, on]), [[10, 20, 3, true], [1.5, 2, 7, false]])
assert.equal(writePoints(points), text) // what nobody touched stays, also what we do not know
const more = [...points.slice(0, 1), { x: 4, y: 5, frame: 0, on: true }]
assert.equal(writePoints(more), '[{"x":10,"y":20,"label":"cup"}, {"x":4,"y":5,"frame":0,"on":true}]')
assert.deepEqual(JSON.parse(writePoints(more))[1], { x: 4, y: 5, frame: 0, on: true })
assert.equal(writePoints([]), "")

const [shown, clip] = [{ width: 640, height: 480 }, { width: 64, height: 48 }]
assert.deepEqual(placeIn(5, 5, shown, clip), { x: 0, y: 0 }) // the middle of the first pixel
assert.deepEqual(placeIn(325, 245, shown, clip), { x: 32, y: 24 })
assert.deepEqual(placeIn(640, 480, shown, clip), { x: 63, y: 47 })
assert.deepEqual(placeIn(-3, 999, shown, clip), { x: 0, y: 47 })
