"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

// --- theme: as the system, light, dark; kept where the browser allows it ---------------------------------------------

const THEMES = { "": "as the system", light: "light", dark: "dark" };
const store = (act) => { try { return act(localStorage); } catch { return null; } };

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  one("#theme").textContent = `Theme: ${THEMES[name]}`;
  store((kept) => kept.setItem("resproto-theme", name));
}

setTheme(document.documentElement.dataset.theme || "");  // early.js has read it
one("#theme").hidden = false;
one("#theme").addEventListener("click", () => {
  const names = Object.keys(THEMES), now = document.documentElement.dataset.theme || "";
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
});

// --- tables: sort, switch the metric, filter -------------------------------------------------------------------------

function showMetric(name) {
  for (const element of all("[data-metric]")) element.classList.toggle("on", element.dataset.metric === name);
  filter();
}

// Rows without a value stay last in both directions; controls and oracles stay in their own groups below.
function sortBy(table, column, descending) {
  const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.replaceAll(",", "").trim();
  const compare = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("group"));
    rows.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      return (descending ? -1 : 1) * compare(x, y);
    });
    body.append(...rows);
  }
  for (const header of table.tHead.rows[0].cells) header.removeAttribute("aria-sort");
  table.tHead.rows[0].cells[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function filter() {
  const search = one("#search");
  if (!search) return;
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const matches = (text) => words.every((word) => text.includes(word));
  let shown = 0, total = 0;
  const show = (row, visible, counted) => {
    row.hidden = !visible;
    total += counted;
    shown += visible && counted;
  };
  if (one("#protocol")) {
    const protocol = one("#protocol").value, set = one("#test-set").value;
    for (const section of all("section.protocol")) {
      const names = section.dataset.sets.split("\n");
      section.hidden = (protocol !== "" && section.id !== protocol) || (set !== "" && !names.includes(set));
      for (const element of all("[data-set]", section)) element.hidden = set !== "" && element.dataset.set !== set;
      for (const row of all("tr[data-name]", section)) {
        const counted = row.closest(".on") !== null;
        show(row, matches(row.dataset.name), counted && !section.hidden);
        if (counted && section.hidden) total += 1;
      }
      for (const element of all("svg [data-name]", section)) {
        element.classList.toggle("off", !matches(element.dataset.name));
      }
    }
  } else {
    for (const details of all("details.published")) {
      const about = details.querySelector("summary").textContent.toLowerCase();
      const heads = [...details.querySelectorAll("thead th")].map((cell) => cell.textContent.toLowerCase()).join(" ");
      for (const row of all("tbody tr", details)) {
        show(row, matches(`${row.textContent.toLowerCase()} ${about} ${heads}`), true);
      }
      details.hidden = !all("tbody tr", details).some((row) => !row.hidden);
    }
  }
  one("#count").textContent = `${shown} of ${total} rows`;
}

// The search box above a long table looks through the table that follows.
for (const field of all("input.within")) {
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    const table = field.closest("p").nextElementSibling;
    for (const row of all("tbody tr", table)) {
      const text = all("th, td.t", row).map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
for (const button of all("table.sortable th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), now = header.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : header.dataset.first === "descending";
    sortBy(header.closest("table"), header.cellIndex, descending);
  });
}
for (const radio of all("input[name=metric]")) radio.addEventListener("change", () => showMetric(radio.value));
for (const field of all("#protocol, #test-set, #search")) field.addEventListener("input", filter);
if (one("#test-set")) {
  one("#test-set").addEventListener("input", () => {  // by that test set, or by rank again
    for (const table of all("table.board")) {
      const header = all("th[data-set]", table).find((cell) => cell.dataset.set === one("#test-set").value);
      if (header) sortBy(table, header.cellIndex, header.dataset.first === "descending");
    }
  });
}

// --- charts: the nearest point of each line, followed by pointer, touch or arrow keys --------------------------------

function follow(svg) {
  const figure = svg.closest("figure"), tip = one(".tip", figure), cursor = one(".cursor", svg);
  const lines = all("[data-points]", svg).map((group) => ({
    name: group.dataset.series,
    points: JSON.parse(group.dataset.points),
  }));
  const places = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
  let at = -1;

  function show(x) {
    const near = (points) => points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    tip.textContent = lines.map((line) => `${line.name}: ${near(line.points)[2]}`).join("\n");
  }
  function hide() {
    cursor.setAttribute("visibility", "hidden");
    tip.textContent = "";
    at = -1;
  }
  function place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    show(places.reduce((best, x) => Math.abs(x - point.x) < Math.abs(best - point.x) ? x : best));
  }
  svg.addEventListener("pointermove", place);
  svg.addEventListener("pointerdown", place);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (event.key === "Escape") hide();
    else if (event.key === "Home") at = 0;
    else if (event.key === "End") at = places.length - 1;
    else if (step) at = Math.min(places.length - 1, Math.max(0, at + step));
    else return;
    event.preventDefault();
    if (at >= 0) show(places[at]);
  });
}

for (const svg of all("svg.lines")) follow(svg);

// A page in a frame without an address of its own: its links to its own parts would lead elsewhere.
if (location.href === "about:srcdoc") {
  addEventListener("click", (event) => {
    const place = document.getElementById(event.target.closest("a[href^='#']")?.hash.slice(1));
    if (!place) return;
    event.preventDefault();
    place.scrollIntoView();
  });
}

addEventListener("beforeprint", () => { for (const details of all("details")) details.open = true; });
const chosen = one("input[name=metric]:checked");
if (chosen) showMetric(chosen.value);
else filter();
