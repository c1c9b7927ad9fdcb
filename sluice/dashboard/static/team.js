import { listen, paint as colour, put, widen } from "./live.js";
import { draw } from "./plots.js";

const REFRESH_MS = 10_000;
const team = document.getElementById("team");
const path = team.dataset.path;
const spans = [...document.querySelectorAll("[data-span]")];
// Until somebody chooses, the server does.
let span = "";
let panel = null;

// the head

function show(news) {
  document.getElementById("gone").hidden = !news.gone;
  if (!news.texts) return;
  const { texts } = news;
  for (const node of document.querySelectorAll("[data-text]")) {
    const text = texts[node.dataset.text];
    if (text === undefined) continue;
    put(node, text);
    if ("class" in node.dataset) {
      if (!node.classList.contains(text)) refresh();
      node.className = `badge ${text}`;
    }
    if ("hide" in node.dataset) node.hidden = !text;
  }
  for (const node of document.querySelectorAll("[data-title]")) {
    node.title = texts[node.dataset.title] ?? "";
  }
  for (const node of document.querySelectorAll("[data-bar]")) {
    const name = node.dataset.bar;
    widen(node.firstElementChild, texts[`${name}Bar`]);
    colour(node.firstElementChild, texts[`${name}Action`]);
    node.setAttribute("aria-valuenow", texts[`${name}Bar`]);
    node.setAttribute("aria-valuetext", texts[name]);
  }
}

// what is below it

function missing(name, part) {
  const words = part?.missing ?? "";
  for (const node of document.querySelectorAll(`[data-missing="${name}"]`)) {
    put(node, words);
    node.hidden = !words;
  }
  return Boolean(words);
}

function cell(text, tag = "td", title = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (title) made.title = title;
  if (tag === "th") made.scope = "row";
  return made;
}

function line(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

function bar(width) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("bar", "plain");
  widen(svg, width);
  return svg;
}

function list(id, places) {
  const table = document.getElementById(id);
  const made = places.map((place) => {
    const share = cell(place.share);
    share.prepend(bar(place.bar));
    return line(cell(place.name, "th"), share, cell(place.size, "td", place.exact));
  });
  table.tBodies[0].replaceChildren(...made);
}

function tabulate(id, { head, rows }) {
  const place = document.getElementById(id);
  const table = document.createElement("table");
  const title = document.createElement("tr");
  title.append(...head.map((text) => Object.assign(cell(text, "th"), { scope: "col" })));
  table.createTHead().append(title);
  table
    .createTBody()
    .append(...rows.map(([first, ...rest]) => line(cell(first, "th"), ...rest.map((t) => cell(t)))));
  // Its parts, and not the table: somebody may be reading there.
  const known = place.querySelector("table");
  if (known) known.replaceChildren(...table.children);
  else place.append(table);
}

function paint() {
  if (!panel) return;
  const lacks = missing("plots", panel.plots);
  for (const id of ["usage", "outcomes"]) {
    document.getElementById(id).hidden = lacks;
    document.getElementById(`${id}-table`).hidden = lacks;
    if (lacks) continue;
    document.getElementById(id).setAttribute("aria-label", panel.plots[id].summary);
    tabulate(`${id}-table`, panel.plots[id].table);
  }
  if (!lacks) draw(panel.plots);
  const nobody = missing("lists", panel.lists);
  for (const id of ["namespaces", "apps"]) {
    document.getElementById(id).hidden = nobody;
    if (!nobody) list(id, panel.lists[id]);
  }
  const silent = missing("events", panel.events);
  const events = document.getElementById("events");
  events.hidden = silent;
  if (silent) return;
  const made = panel.events.map((one) => {
    const what = cell(one.reason);
    what.className = one.kind === "Warning" ? "warning" : "";
    return line(cell(one.time, "th", one.exact), what, cell(one.text));
  });
  events.tBodies[0].replaceChildren(...made);
}

let asking = null;

async function refresh() {
  asking?.abort();
  asking = new AbortController();
  try {
    const reply = await fetch(`${path}/panel.json?span=${span}`, { signal: asking.signal });
    if (!reply.ok) return;
    panel = await reply.json();
    for (const one of spans) one.setAttribute("aria-pressed", one.dataset.span === panel.span);
    paint();
  } catch {
    // Away for a moment: the state beside the time says so, and the next time comes soon.
  }
}

for (const button of spans) {
  button.addEventListener("click", () => {
    span = button.dataset.span;
    refresh();
  });
}
document.addEventListener("theme", paint);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), REFRESH_MS);
refresh();
listen(path.replace(/^\/teams\//, "/live/"), "", show);
document.documentElement.dataset.ready = "yes";
