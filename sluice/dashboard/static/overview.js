import { listen, paint, put, widen } from "./live.js";

const SETTLE_MS = 3000;
const table = document.getElementById("teams");
const body = table.tBodies[0];
const find = document.getElementById("find");
const shown = document.getElementById("shown");
const empty = document.getElementById("empty");
const none = document.getElementById("none");
const chips = [...document.querySelectorAll(".chips button")];
const heads = [...table.tHead.rows[0].cells];
const rows = new Map([...body.rows].map((row) => [row.dataset.key, row]));

// Where each text of a line stands in its row.
const PLACES = {
  name: (row, text) => put(row.cells[0].children[0], text),
  namespace: (row, text) => put(row.cells[0].children[1], text),
  href: (row, text) => row.cells[0].children[0].setAttribute("href", text),
  action: (row, text) => {
    put(row.cells[1].children[0], text);
    row.cells[1].children[0].className = text;
  },
  dry: (row, text) => put(row.cells[1].children[1], text),
  day: (row, text) => put(row.cells[2].children[1], text),
  dayBar: (row, text) => widen(row.cells[2].children[0], text),
  dayAction: (row, text) => paint(row.cells[2].children[0], text),
  used: (row, text) => put(row.cells[3], text),
  dayExact: (row, text) => {
    row.cells[2].title = text;
    row.cells[3].title = text;
  },
  month: (row, text) => put(row.cells[4].children[1], text),
  monthBar: (row, text) => widen(row.cells[4].children[0], text),
  monthAction: (row, text) => paint(row.cells[4].children[0], text),
  monthExact: (row, text) => (row.cells[4].title = text),
  rate: (row, text) => put(row.cells[5].children[0], text),
  trend: (row, text) => {
    put(row.cells[5].children[1], text);
    row.cells[5].children[1].className = text;
  },
  spent: (row, text) => put(row.cells[6], text),
  spentExact: (row, text) => (row.cells[6].title = text),
  cut: (row, text) => put(row.cells[7], text),
  cutExact: (row, text) => (row.cells[7].title = text),
  cost: (row, text) => put(row.cells[8], text),
  sort: (row, text) => (row.dataset.sort = text),
};

function write(row, line) {
  for (const [name, text] of Object.entries(line)) PLACES[name]?.(row, text);
}

// sorting: keys are texts that compare like the numbers that they stand for

const query = new URLSearchParams(location.search);
const given = query.get("sort") ?? "-action";
const sorting = { name: given.replace(/^-/, ""), descending: given.startsWith("-") };
const asked = query.get("action");
let chosen = chips.some((chip) => chip.dataset.action === asked) ? asked : "";
find.value = query.get("q") ?? "";

function compare(column, descending) {
  const sign = descending ? -1 : 1;
  const text = (row) => (column ? row.dataset.sort.split(" ")[column - 1] : row.cells[0].textContent);
  const key = new Map([...rows.values()].map((row) => [row, text(row)]));
  return (one, other) => {
    const [a, b] = [key.get(one), key.get(other)];
    // What is not known comes last, in whichever direction.
    if ((a === "~") !== (b === "~")) return a === "~" ? 1 : -1;
    if (a !== b) return (a < b ? -1 : 1) * sign;
    return one.dataset.key < other.dataset.key ? -1 : 1;
  };
}

function sort() {
  let column = heads.findIndex((head) => head.dataset.name === sorting.name);
  if (column < 0) [column, sorting.name, sorting.descending] = [1, "action", true];
  heads.forEach((head, at) => {
    const order = sorting.descending ? "descending" : "ascending";
    head.setAttribute("aria-sort", at === column ? order : "none");
  });
  const wanted = [...rows.values()].sort(compare(column, sorting.descending));
  if (wanted.some((row, at) => row !== body.rows[at])) body.append(...wanted);
}

let settling = 0;

/** Put rows in order again, in a while, and not under somebody's pointer or focus. */
function settle() {
  if (settling) return;
  settling = setTimeout(() => {
    settling = 0;
    if (body.matches(":hover") || body.contains(document.activeElement)) settle();
    else sort();
  }, SETTLE_MS);
}

// filters

function matches(row) {
  const words = find.value.trim().toLowerCase();
  return (
    (!chosen || row.cells[1].children[0].textContent === chosen) &&
    (!words || row.dataset.key.toLowerCase().includes(words))
  );
}

function filter() {
  let count = 0;
  for (const row of rows.values()) {
    const hidden = !matches(row);
    if (row.hidden !== hidden) row.hidden = hidden;
    if (!hidden) count++;
  }
  none.hidden = count > 0 || rows.size === 0;
  put(shown, chosen || find.value.trim() ? `${count} shown` : "");
  for (const chip of chips) chip.setAttribute("aria-pressed", chip.dataset.action === chosen);
}

function remember() {
  const kept = new URLSearchParams();
  if (find.value.trim()) kept.set("q", find.value.trim());
  if (chosen) kept.set("action", chosen);
  const order = (sorting.descending ? "-" : "") + sorting.name;
  if (order !== "-action") kept.set("sort", order);
  const text = kept.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

for (const head of heads) {
  head.firstElementChild.addEventListener("click", () => {
    const again = sorting.name === head.dataset.name;
    sorting.descending = again ? !sorting.descending : head.dataset.first === "descending";
    sorting.name = head.dataset.name;
    sort();
    remember();
  });
}
for (const chip of chips) {
  chip.addEventListener("click", () => {
    chosen = chip.dataset.action;
    filter();
    remember();
  });
}
find.addEventListener("input", () => {
  filter();
  remember();
});

// news

function show(news) {
  const gone = news.gone ?? [...rows.keys()].filter((key) => !Object.hasOwn(news.rows, key));
  for (const key of gone) {
    rows.get(key)?.remove();
    rows.delete(key);
  }
  let moved = gone.length > 0;
  for (const [key, line] of Object.entries(news.rows)) {
    let row = rows.get(key);
    if (!row) {
      row = document.getElementById("row").content.firstElementChild.cloneNode(true);
      row.dataset.key = row.cells[0].title = key;
      rows.set(key, row);
      body.append(row);
    }
    write(row, line);
    moved ||= "sort" in line;
  }
  for (const node of document.querySelectorAll("[data-total]")) {
    put(node, news.totals[node.dataset.total]);
  }
  document.getElementById("problems").hidden = !news.totals.problems;
  put(document.getElementById("time"), news.totals.time);
  empty.hidden = rows.size > 0;
  if (moved) {
    filter();
    settle();
  }
}

sort();
filter();
listen("/live", table.dataset.mark, show);
document.documentElement.dataset.ready = "yes";
