// The rating page: one item at a time, two more fetched ahead, answers by keys.

import { Outbox } from "./outbox.js";
import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const AHEAD = 3;
const queue = []; // {item, blobs}: the first is shown
const done = []; // {key, entry}, the newest last
const answered = new Set(); // ids that are not to be shown again, though the server may not know yet
const tabs = new BroadcastChannel("evlm-ratings");
let outbox, shown = 0, players = [], note = "", fetching = null, again = false, counts = { votes: 0, left: 0 }, ended = false;
let state, maskOn = false, opacity = 0.5, training = false, waitingForNext = false, keeping = false;
const restored = new Set(); // keys of votes that were taken back, whose items are shown again already

const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token");
if (token) {
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname); // not to be read over a shoulder, or kept in the history
}

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${token}` } };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  return fetch(path, options);
}

async function post(path, body) {
  const response = await ask(path, body);
  return { status: response.status, data: await response.json() };
}

// A server that is away is waited for; one that answers with a fault of its own `faults` times at the most.
async function patient(path, faults = Infinity) {
  for (let wait = 300; ; wait = Math.min(wait * 1.6, 5000)) {
    try {
      const response = await ask(path);
      if (response.status !== 429 && (response.status < 500 || --faults < 1)) {
        if (offline) { offline = false; say(); }
        return response;
      }
    } catch { offline = true; say(); }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

let offline = false, open = 0;
function say() {
  $("saved").textContent = offline ? `server away, ${open} kept here` : open || keeping ? `saving ${open + keeping} …` : "all saved";
  $("saved").classList.toggle("bad", offline);
  $("progress").textContent = training ? "training" : `${counts.votes} rated, ${counts.left} left`;
}

function message(text) {
  $("message").textContent = text;
  $("item").hidden = $("bar").hidden = Boolean(text);
}

// --- items ---

async function fetchItem(item) {
  const load = async (path) => {
    const response = await patient(`api/items/${item.id}/${path}`, 4);
    return response.ok ? URL.createObjectURL(await response.blob()) : null;
  };
  const all = (numbers) => Promise.all(numbers.map((number) => load(`pictures/${number}`)));
  const [original, edited, mask, ...references] = await Promise.all([
    all(item.original), all(item.edited), item.masked ? load("mask") : null,
    ...item.references.map((each) => all(each.frames)),
  ]);
  return { item, original, edited, mask, references };
}

function forget(entry) {
  for (const url of [entry.mask, ...entry.original, ...entry.edited, ...entry.references.flat()]) {
    if (url) URL.revokeObjectURL(url);
  }
}

// What is asked for while it works is done right after: the answer may be older than the last vote.
function refill() {
  again = true;
  fetching ??= (async () => {
    while (again) {
      again = false;
      await fill();
    }
  })().finally(() => { fetching = null; });
  return fetching;
}

async function fill() {
  const response = await patient(`api/next?n=${AHEAD}`);
  const data = await response.json();
  if (response.status === 401) return lost();
  if (!response.ok) return message(data.detail);
  counts = { votes: data.votes, left: data.left };
  const there = new Set(queue.map((each) => each.item.id));
  const fresh = data.items.filter((each) => !there.has(each.id) && (each.training || !answered.has(each.id)));
  ended = data.items.length === 0;
  for (const item of fresh) {
    const entry = await fetchItem(item);
    if (answered.has(item.id) && !item.training) { forget(entry); continue; }
    queue.push(entry);
    if (queue.length === 1) draw();
  }
  if (!queue.length) draw();
  say();
}

function lost() {
  message("This link is no longer valid. Ask for a new one; what you answered is kept in this browser until then.");
}

function draw() {
  players.forEach((each) => each.stop());
  players = [];
  const entry = queue[0];
  if (!entry) {
    message(ended ? "Nothing is left for you: thank you! Undo (u) still works." : "Loading …");
    return;
  }
  message("");
  const { item } = entry;
  $("item").dataset.id = item.id;
  training = item.training;
  $("prompt").textContent = item.prompt ? `They said: “${item.prompt}”` : "";
  $("instruction").textContent = item.instruction;
  $("trace").hidden = !item.trace.length;
  $("trace").open = false;
  $("trace").lastElementChild.replaceChildren(...item.trace.map(([name, text]) => {
    const line = document.createElement("p"), bold = document.createElement("b");
    bold.textContent = `${name} `;
    line.append(bold, text);
    return line;
  }));
  $("lesson").hidden = true;
  const pictures = [figure("Original", entry.original, entry.mask, item.fps, "original")];
  item.references.forEach((each, at) => {
    const name = item.references.length > 1 ? `Reference ${at + 1}` : "Reference";
    const caption = each.note ? `${name}: ${each.note}` : name;
    pictures.push(each.frames.length ? figure(caption, entry.references[at], null, each.fps) : words(caption, each.text));
    if (each.frames.length && each.text) pictures.push(words(`${name}, in words`, each.text));
  });
  if (entry.edited.length) pictures.push(figure("Edited", entry.edited, entry.mask, item.fps, "edited"));
  const clips = pictures.filter((each) => each.urls?.length > 1);
  const pair = clips.filter((each) => each.caption === "Original" || each.caption === "Edited");
  for (const group of [pair, ...clips.filter((each) => !pair.includes(each)).map((each) => [each])]) {
    if (!group.length) continue;
    const player = new Player(group.map((each) => each.image), group.map((each) => each.urls), group[0].fps);
    group.at(-1).node.append(player.bar);
    players.push(player);
  }
  $("pictures").replaceChildren(...pictures.map((each) => each.node));
  $("mask").hidden = !entry.mask;
  masks();
  closeNote();
  note = "";
  shown = performance.now();
  scrollTo(0, 0);
}

function base(caption, kind = "") {
  const node = document.createElement("figure"), title = document.createElement("figcaption");
  const frame = document.createElement("div");
  node.className = kind;
  frame.className = "frame";
  title.textContent = caption;
  node.append(title, frame);
  return { node, frame, caption };
}

function words(caption, text) {
  const made = base(caption, "word");
  made.frame.classList.add("words");
  made.frame.textContent = `“${text}”`;
  return made;
}

function figure(caption, urls, mask, fps, kind = "") {
  const made = base(caption, kind);
  const there = urls.filter(Boolean);
  if (!there.length) {
    made.frame.classList.add("lost");
    made.frame.textContent = "This picture cannot be shown. Please skip.";
    return made;
  }
  const image = Object.assign(document.createElement("img"), { src: there[0], alt: caption });
  made.frame.append(image);
  if (mask) {
    const canvas = document.createElement("canvas");
    made.frame.append(canvas);
    image.addEventListener("load", () => paint(canvas, image, mask), { once: true });
  }
  return { ...made, image, urls: there, fps };
}

function paint(canvas, image, url) {
  const mask = new Image();
  mask.addEventListener("load", () => {
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.style.objectFit = "contain";
    const context = canvas.getContext("2d");
    context.drawImage(mask, 0, 0, canvas.width, canvas.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const on = pixels.data[at];
      pixels.data.set([230, 40, 200, on], at);
    }
    context.putImageData(pixels, 0, 0);
  }, { once: true });
  mask.src = url;
}

function masks() {
  $("mask").setAttribute("aria-pressed", String(maskOn));
  for (const canvas of document.querySelectorAll("canvas")) {
    canvas.hidden = !maskOn;
    canvas.style.opacity = opacity;
  }
}

// --- answers ---

const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

// Puts it into the outbox; the page goes on only when it is kept. Says whether it is; what is pressed meanwhile
// counts for nothing, as nothing else has been shown yet.
async function keep(path, body) {
  keeping = true;
  say();
  try {
    await outbox.add(path, body);
    return true;
  } catch (error) {
    $("lesson").textContent = `This browser could not keep it (${error?.message ?? error}): please answer again.`;
    $("lesson").hidden = false;
    return false;
  } finally {
    keeping = false;
    say();
  }
}

async function answer(value) {
  const entry = queue[0];
  if (!entry || $("item").hidden || keeping) return;
  if (waitingForNext) return following();
  if (!$("note").hidden) closeNote(true); // what stands there was meant for this answer
  const body = { key: newKey(), item: entry.item.id, value, note, ms: Math.round(performance.now() - shown) };
  if (entry.item.training) return value === null ? undefined : learn(entry, body);
  answered.add(entry.item.id);
  if (!await keep("api/votes", body)) return answered.delete(entry.item.id);
  const at = queue.indexOf(entry);
  if (at >= 0) queue.splice(at, 1);
  done.push({ key: body.key, entry });
  if (done.length > 30) forget(done.shift().entry);
  if (value !== null) counts = { votes: counts.votes + 1, left: counts.left - 1 };
  draw();
  tabs.postMessage({ rater: who(), item: entry.item.id });
  say();
  await outbox.flush();
  if (queue.length < AHEAD) refill();
}

async function learn(entry, body) {
  keeping = true;
  let answered, trouble = "The server is away";
  try {
    answered = await post("api/lessons", body);
    if (answered.status !== 200) trouble = answered.data.detail;
  } catch { /* said below */ } finally { keeping = false; }
  if (answered?.status === 401) return lost();
  if (answered?.status !== 200) {
    $("lesson").textContent = `${trouble}: please answer again.`;
    $("lesson").hidden = false;
    return;
  }
  waitingForNext = true;
  const { right, answer: should, why, trained } = answered.data;
  const verdict = right ? "Right." : `The answer is ${should ? "yes" : "no"}.`;
  const then = trained ? "The training is done; now it counts." : "";
  $("lesson").textContent = [verdict, why, then, "Any answer goes on."].filter(Boolean).join(" ");
  $("lesson").hidden = false;
}

function following() {
  waitingForNext = false;
  forget(queue.shift());
  draw();
  refill();
}

// Each press takes one back, however fast they come: one after the other, when nothing is being kept.
let undoing = Promise.resolve();
function undo() {
  undoing = undoing.then(takeBack);
  return undoing;
}

async function takeBack() {
  if (training && queue.length) return;
  while (keeping) await new Promise((resolve) => setTimeout(resolve, 5));
  let last = done.at(-1);
  if (!last) { // after a reload the server knows what came last
    await outbox.flush();
    const { votes } = await (await patient("api/last")).json();
    if (!votes.length) return;
    last = { key: votes[0].key, entry: null };
  }
  if (!await keep("api/undo", { key: last.key })) return;
  if (last.entry) {
    done.splice(done.indexOf(last), 1);
    restored.add(last.key);
    answered.delete(last.entry.item.id);
    queue.unshift(last.entry);
    counts = { votes: counts.votes - 1, left: counts.left + 1 };
    draw();
  }
  say();
  outbox.flush(); // not awaited: with the server away the next one is taken back all the same
}

// What the outbox tells: how much waits, what the server answered (0: nothing), and to what.
async function told(waits, answer, entry) {
  open = waits;
  if (answer) offline = answer.status === 0;
  if (answer?.status === 401) lost();
  if (answer?.status === 200 && entry.path === "api/undo" && !restored.has(entry.body.key)) {
    const id = answer.data.item.id;
    answered.delete(id);
    if (!queue.some((each) => each.item.id === id)) {
      queue.unshift(await fetchItem(answer.data.item));
      draw();
    }
  }
  if (answer?.data?.votes !== undefined && !waits) counts = { votes: answer.data.votes, left: answer.data.left };
  say();
}

// --- notes, dialogs, keys ---

function openNote() {
  $("note").hidden = false;
  $("note").value = note;
  $("note").focus();
}

function closeNote(keep = false) {
  if (keep) note = $("note").value.trim();
  $("note").hidden = true;
  $("why").setAttribute("aria-pressed", String(Boolean(note)));
  $("note").blur();
}

// Headings, lists, paragraphs and **bold** of the guidelines; everything else is text.
function markdown(text) {
  const inline = (node, line) => {
    line.split("**").forEach((part, at) => {
      const piece = at % 2 ? document.createElement("b") : document.createTextNode(part);
      if (at % 2) piece.textContent = part;
      node.append(piece);
    });
    return node;
  };
  const nodes = [];
  for (const block of text.split(/\n\s*\n/)) {
    const lines = block.split("\n").filter((line) => line.trim());
    if (!lines.length) continue;
    if (/^[-*] /.test(lines[0])) {
      const list = document.createElement("ul");
      lines.forEach((line) => list.append(inline(document.createElement("li"), line.replace(/^[-*] /, ""))));
      nodes.push(list);
    } else {
      const heading = /^#+ /.test(lines[0]);
      nodes.push(inline(document.createElement(heading ? "h2" : "p"), lines.join(" ").replace(/^#+ /, "")));
    }
  }
  return nodes;
}

const actions = {
  y: () => answer(true), 1: () => answer(true), n: () => answer(false), 0: () => answer(false),
  s: () => answer(null), u: undo, g: () => $("guidelines").showModal(), "?": () => $("help").showModal(),
  m: () => { maskOn = !maskOn; masks(); },
  "[": () => { maskOn = true; opacity = Math.max(0.1, opacity - 0.1); masks(); },
  "]": () => { maskOn = true; opacity = Math.min(1, opacity + 0.1); masks(); },
  z: () => {
    const on = $("pictures").classList.toggle("zoomed");
    $("zoom").setAttribute("aria-pressed", String(on));
  },
  t: () => { $("trace").open = !$("trace").open; },
  " ": () => players.forEach((each) => { each.playing = !each.playing; }),
  Enter: openNote,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
  if (event.target === $("note")) {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); closeNote(true); }
    if (event.key === "Escape") closeNote();
    return;
  }
  if (["Enter", " "].includes(event.key) && event.target.closest("button, summary, input")) return;
  const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (action) { event.preventDefault(); action(); }
});
for (const [id, key] of Object.entries({ yes: "y", no: "n", skip: "s", undo: "u", why: "Enter", mask: "m", zoom: "z", guide: "g", keys: "?" })) {
  $(id).addEventListener("click", (event) => { event.currentTarget.blur(); actions[key](); });
}
$("pictures").addEventListener("pointermove", (event) => {
  const box = event.target.closest(".frame")?.getBoundingClientRect();
  if (!box) return;
  $("pictures").style.setProperty("--x", `${((event.clientX - box.left) / box.width) * 100}%`);
  $("pictures").style.setProperty("--y", `${((event.clientY - box.top) / box.height) * 100}%`);
});
tabs.addEventListener("message", ({ data }) => { // another tab of this browser has answered it
  if (!state || data.rater !== who()) return; // the tab of another rater, or of another dataset
  answered.add(data.item);
  const at = queue.findIndex((each) => each.item.id === data.item);
  if (at < 0) return;
  forget(queue.splice(at, 1)[0]);
  if (at === 0) draw();
  refill();
});
addEventListener("beforeunload", (event) => {
  if (keeping || outbox?.memory.length) event.preventDefault(); // it is nowhere but in this tab
});
addEventListener("online", () => outbox?.flush());

// Items are numbered anew in every dataset, and so are raters.
const who = () => `${state.store}/${state.rater}`;

async function begin() {
  if (!token) return message("Open this page by the link that you were given: it ends in #token=…");
  const response = await patient("api/state");
  if (response.status === 401) return lost();
  state = await response.json();
  if (state.role === "admin") { location.href = "admin"; return; }
  counts = state;
  $("guidelines").querySelector("div").replaceChildren(...markdown(state.guidelines));
  if (!state.trained && !state.votes) $("guidelines").showModal();
  outbox = new Outbox(who(), post, told);
  for (const each of await outbox.waiting()) if (each.path === "api/votes") answered.add(each.body.item);
  outbox.flush().then(refill);
  await refill();
  setInterval(() => { if (!queue.length) refill(); }, 20_000); // others give items back
}

begin();
