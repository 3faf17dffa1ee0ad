// page.js over a stand-in document: what is shown while an answer is not yet committed, and after it is.

import assert from "node:assert/strict";

const elements = new Map(), listeners = {}, commits = [], sent = [], messages = [];
const handler = {
  get(target, name) {
    if (name in target) return target[name];
    if (name === Symbol.toPrimitive) return () => "";
    return (target[name] = typeof name === "string" && ["append", "replaceChildren", "setAttribute", "addEventListener",
      "focus", "blur", "showModal"].includes(name) ? () => {} : undefined);
  },
};
function element(id) {
  const made = new Proxy({ id, dataset: {}, style: { setProperty() {} }, value: "", classList: { add() {}, toggle() {} },
    querySelector: () => element("inner"), closest: () => null }, handler);
  made.lastElementChild = id === "inner" ? null : element("inner");
  return made;
}
const byId = (id) => elements.get(id) ?? (elements.set(id, element(id)), elements.get(id));
for (const id of ["item", "note", "lesson"]) byId(id).hidden = true;

let last = 0;
const stored = new Map();
const database = {
  transaction(name, mode) { // what a readwrite one did is seen by others when it has completed
    const change = { done: () => {}, objectStore: () => ({
      getAll: () => ({ result: [...stored.values()] }),
      add: (entry) => { change.done = () => { last += 1; stored.set(last, { ...entry, at: last }); }; return {}; },
    }) };
    if (mode === "readwrite") commits.push(change); // the test commits or aborts it
    else setTimeout(() => change.oncomplete());
    return change;
  },
};
const items = [1, 2, 3].map((id) => ({ id, training: false, trace: [], references: [], original: [], edited: [],
  masked: false, instruction: `edit ${id}`, prompt: "" }));
const answers = {
  "api/state": { store: 5, rater: 7, role: "rater", trained: true, votes: 0, left: 3, guidelines: "" },
  "api/next?n=3": { items, votes: 0, left: 3 },
};
Object.assign(globalThis, {
  document: { getElementById: byId, createElement: element, createTextNode: element, querySelector: () => null,
    querySelectorAll: () => [], addEventListener: (name, heard) => { listeners[name] = heard; } },
  location: { hash: "#token=abc", pathname: "/" },
  sessionStorage: { setItem() {}, getItem: () => null },
  history: { replaceState() {} },
  matchMedia: () => ({ matches: true }),
  scrollTo() {},
  setInterval() {},
  addEventListener: (name, heard) => { listeners[name] = heard; },
  BroadcastChannel: class {
    addEventListener(name, heard) { listeners.tab = heard; }
    postMessage(data) { messages.push(data); }
  },
  indexedDB: { open() { const request = { result: database }; setTimeout(() => request.onsuccess()); return request; } },
  async fetch(path, options) {
    if (options.method === "POST") { sent.push(path); return new Promise(() => {}); } // the server is silent
    return { ok: true, status: 200, json: async () => answers[path] };
  },
});

const rest = () => new Promise((resolve) => setTimeout(resolve, 30));
const press = (key) => listeners.keydown({ key, target: byId("body"), preventDefault() {} });
const shown = () => byId("instruction").textContent;

await import(process.argv[2]);
await rest();
assert.equal(shown(), "edit 1");

press("y");
press("y"); // a second press on what is still shown is not a vote for what comes
await rest();
assert.equal(shown(), "edit 1", "it goes on before the answer is committed");
assert.equal(byId("saved").textContent, "saving 1 …");
assert.equal(commits.length, 1);
let held = false;
listeners.beforeunload({ preventDefault() { held = true; } });
assert(held, "the tab may be closed over an answer that is nowhere");

const kept = commits.shift();
kept.done();
kept.oncomplete();
await rest();
assert.equal(shown(), "edit 2");
assert.equal(byId("saved").textContent, "saving 1 …");
assert.deepEqual(sent, ["api/votes"]);
assert.deepEqual(messages, [{ rater: "5/7", item: 1 }]);

press("n"); // the disk is full: nothing is counted, and it says so
await rest();
const change = commits.shift();
change.error = new Error("quota");
change.onabort();
await rest();
assert.equal(shown(), "edit 2");
assert.match(byId("lesson").textContent, /quota.*again/);
assert.equal(byId("progress").textContent, "1 rated, 2 left");

listeners.tab({ data: { rater: "5/8", item: 2 } }); // of another rater on this machine
assert.equal(shown(), "edit 2");
listeners.tab({ data: { rater: "5/7", item: 2 } });
assert.equal(shown(), "edit 3");
process.exit(0);
