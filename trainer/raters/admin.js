// The owner's page: how far the ratings are, who rates how, and how far they agree; asked anew every ten seconds.

const token = new URLSearchParams(location.hash.slice(1)).get("token") || sessionStorage.getItem("token");
if (token) {
  sessionStorage.setItem("token", token);
  history.replaceState(null, "", location.pathname);
}
const whole = document.getElementById("whole"), status = document.getElementById("saved");
const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);
const two = (value) => (value === null ? "–" : value.toFixed(2));
const seconds = (value) => (value === null ? "–" : `${value.toFixed(1)} s`);

function node(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function table(title, heads, rows) {
  const outer = node("div", "", "wide"), inner = document.createElement("table");
  const line = (name, cells) => {
    const row = document.createElement("tr");
    cells.forEach((cell) => row.append(node(name, cell, /^[\d–-]/.test(String(cell)) ? "number" : "")));
    return row;
  };
  const head = line("th", heads);
  rows[0]?.forEach((cell, at) => { if (/^[\d–-]/.test(String(cell))) head.children[at].className = "number"; });
  inner.append(head, ...rows.map((row) => line("td", row)));
  outer.append(node("h2", title), inner);
  return outer;
}

function figures(values) {
  const outer = node("div", "", "figures");
  for (const [name, value] of values) {
    const box = document.createElement("div");
    box.append(node("b", value), node("span", name));
    outer.append(box);
  }
  return outer;
}

function draw(data) {
  const agreed = data.agreement;
  const parts = [figures([
    ["items complete", `${data.complete} of ${data.items}`], ["votes", data.votes], ["votes in the last hour", data.hour],
    ["median time of a vote", seconds(data.seconds)],
    ["Krippendorff's alpha", two(agreed?.alpha ?? null)], ["Fleiss' kappa", two(agreed?.fleiss ?? null)],
    ["pairs of votes that are equal", percent(agreed?.percent ?? null)],
  ])];
  parts.push(table("Raters", ["name", "in datasets", "votes", "yes", "median", "known answers right", "last vote"],
    data.raters.map((each) => [
      each.revoked ? `${each.name} (revoked)` : each.trained ? each.name : `${each.name} (not trained)`,
      each.pseudonym, each.votes, percent(each.yes), seconds(each.seconds),
      each.gold ? `${percent(each.gold_right)} of ${each.gold}` : "–",
      each.last ? new Date(1000 * each.last).toLocaleString() : "–",
    ])));
  if (agreed) {
    parts.push(table("Cohen's kappa, on the items that both rated", ["raters", "kappa", "items"],
      agreed.cohen.map((each) => [each.raters.join(" and "), two(each.kappa), each.items])));
  }
  if (data.disputed.length) {
    parts.push(table("Votes on both sides", ["row", "instruction", "yes", "no"],
      data.disputed.map((each) => [each.row, each.instruction, each.yes, each.no])));
  }
  whole.replaceChildren(...parts);
}

async function refresh() {
  try {
    const response = await fetch("api/admin", { headers: { Authorization: `Bearer ${token}` } });
    const data = await response.json();
    if (response.ok) draw(data);
    status.textContent = response.ok ? new Date().toLocaleTimeString() : data.detail;
    if (response.status === 401 || response.status === 403) return;
  } catch {
    status.textContent = "the server is away";
  }
  setTimeout(refresh, 10_000);
}

if (token) refresh();
else whole.textContent = "Open this page by the link that the server printed when it was first started: it ends in #token=…";
