// The study's page: consent, then one screen after the other, rated by the keys 1 to 5.

const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("study") || "";
if (token) sessionStorage.setItem("study", token);
history.replaceState(null, "", location.pathname); // the token is seen no longer than needed
const by = (id) => document.getElementById(id);
const ANCHORS = { 1: "not at all", 3: "in part", 5: "completely" };
let shown = null; // what is on the screen
let began = 0;
let busy = false;

async function ask(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: JSON.stringify(body) });
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(data.detail || `the server says ${answer.status}`), { status: answer.status });
  return data;
}

// Sent until it is answered: the key says that it is the same one.
async function send(path, body) {
  for (let tries = 0; ; tries++) {
    try {
      const data = await ask(path, body);
      by("saved").textContent = "";
      return data;
    } catch (error) {
      if (error.status && error.status !== 503) throw error;
      by("saved").textContent = "not saved yet, trying again …";
      await new Promise((done) => setTimeout(done, Math.min(10000, 500 * 2 ** tries)));
    }
  }
}

// crypto.randomUUID is there on https and localhost alone.
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (n) => n.toString(16).padStart(2, "0")).join("");

function tell(text, ...more) {
  by("item").hidden = by("bar").hidden = true;
  const words = document.createElement("p");
  words.textContent = text;
  by("message").replaceChildren(words, ...more);
}

function button(text, press) {
  const made = document.createElement("button");
  made.textContent = text;
  made.addEventListener("click", press);
  return made;
}

function consent(state) {
  const ages = document.createElement("select");
  ages.setAttribute("aria-label", "Age band, if you like");
  for (const age of ["", ...state.ages]) ages.add(new Option(age || "age: not said", age));
  tell(state.consent, ages, " ", button("I agree", async () => show(await send("api/consent", { agree: true, age: ages.value }))));
}

async function medium(screen, number, file) {
  const answer = await fetch(`api/screens/${screen}/${number}`, { headers: { Authorization: `Bearer ${token}` } });
  const made = document.createElement(file.clip ? "video" : "img");
  if (file.clip) Object.assign(made, { loop: true, muted: true, autoplay: true, controls: true, playsInline: true });
  else made.alt = file.name;
  if (!answer.ok) return Object.assign(document.createElement("p"), { className: "lost", textContent: "not there" });
  made.src = URL.createObjectURL(await answer.blob());
  return made;
}

async function show(state) {
  by("progress").textContent = `${state.done} of ${state.screens}`;
  by("question").textContent = state.question;
  by("withdraw").hidden = !state.agreed;
  by("back").disabled = !state.done;
  shown = null;
  for (const old of by("pictures").querySelectorAll("img, video")) URL.revokeObjectURL(old.src);
  if (state.done >= state.screens) {
    tell("That was all: thank you. You may close the page, or go back once more.", button("Back", back));
    return;
  }
  const current = state.shown;
  by("instruction").textContent = current.text;
  const figures = await Promise.all(current.files.map(async (file, number) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const frame = document.createElement("div");
    frame.className = "frame";
    caption.textContent = file.name;
    frame.append(await medium(current.screen, number, file));
    figure.append(caption, frame);
    return figure;
  }));
  by("pictures").replaceChildren(...figures);
  by("message").replaceChildren();
  by("item").hidden = by("bar").hidden = false;
  by("item").dataset.screen = current.screen;
  shown = current;
  began = performance.now();
}

async function once(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    if (error.status === 409) await show(await ask("api/state")); // another tab was quicker
    else tell(error.message);
  } finally {
    busy = false;
  }
}

const rate = (value) => once(async () => {
  if (!shown) return;
  const ms = Math.round(performance.now() - began);
  await show(await send("api/ratings", { screen: shown.screen, value, key: newKey(), ms }));
});
const back = () => once(async () => show(await send("api/back", {})));

for (let value = 1; value <= 5; value++) {
  const made = button("", () => rate(value));
  const key = document.createElement("b"); // a kbd is hidden where there are no keys
  key.textContent = value;
  made.append(key, ANCHORS[value] ? ` ${ANCHORS[value]}` : "");
  by("values").append(made);
}
by("back").addEventListener("click", back);
by("withdraw").addEventListener("click", () => {
  if (!confirm("Delete all your ratings, for good?")) return;
  once(async () => {
    await send("api/withdraw", { sure: true });
    sessionStorage.removeItem("study");
    by("withdraw").hidden = true;
    tell("All that you gave is deleted.");
  });
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key >= "1" && event.key <= "5") rate(Number(event.key));
  else if (event.key === "u") back();
});

try {
  const state = await ask("api/state");
  if (state.agreed) await show(state);
  else consent(state);
} catch (error) {
  tell(error.message);
}
