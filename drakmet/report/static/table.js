// SPDX-License-Identifier: GPL-2.0-or-later
// Tables that can be sorted and show their rows a page at a time.

const PAGE = 100;

// A column: title, get (for sorting and, without show, for showing), show (a node or text), number (right-aligned).
function table(caption, columns, rows, empty) {
  if (!rows.length) return el("p", { class: "note" }, empty || "There is nothing.");
  let sorted = rows;
  let by = null;
  let down = false;
  let shown = PAGE;
  const body = el("tbody");
  const more = el("p", { class: "more" });
  const heads = columns.map((column, at) =>
    el("th", { scope: "col", class: column.number ? "number" : null }, button(column.title, () => sort(at))));

  function sort(at) {
    down = by === at ? !down : Boolean(columns[at].number);
    by = at;
    const get = columns[at].get;
    sorted = [...rows].sort((one, other) => compare(get(one), get(other)) * (down ? -1 : 1));
    heads.forEach((head, place) => {
      if (place === by) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    draw();
  }

  function draw() {
    put(body, sorted.slice(0, shown).map((row) =>
      el("tr", {}, columns.map((column) =>
        el("td", { class: column.number ? "number" : column.kind || null }, column.show ? column.show(row) : cell(column.get(row)))))));
    const left = sorted.length - shown;
    put(more, left > 0 && [
      `${number(shown)} of ${number(sorted.length)} rows. `,
      button(`Show ${number(Math.min(left, 5 * PAGE))} more`, () => { shown += 5 * PAGE; draw(); }),
    ]);
  }

  draw();
  return el("div", { class: "sheet" },
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body)),
    more);
}

function cell(value) {
  if (value === null || value === undefined) return el("span", { class: "unknown" }, "–");
  return typeof value === "number" ? number(value) : text(value);
}

function compare(one, other) {
  if (one === other) return 0;
  if (one === null || one === undefined) return -1;
  if (other === null || other === undefined) return 1;
  return typeof one === "number" && typeof other === "number" ? one - other : String(one) < String(other) ? -1 : 1;
}

// A process as a button that filters everything by it and all below it.
function processButton(id, short) {
  const one = BY_ID.get(id);
  if (!one) return el("span", { class: "unknown" }, id === null || id === undefined ? "not known" : "not shown");
  const label = short ? lastName(one.program) : one.program;
  return button([text(label, "path"), " ", el("span", { class: "pid" }, one.pid === null ? "" : one.pid)],
    () => setFilter({ process: id }), { class: "link", title: `Show only this process and what it started: ${one.argv || one.program || "?"}` });
}

function processColumn() {
  return { title: "Process", get: (row) => BY_ID.get(row.process)?.program ?? null, show: (row) => processButton(row.process, true) };
}

function guestColumn() {
  return { title: "Guest", get: (row) => guestName(row.guest) };
}

function guestColumns() {
  return REPORT.guests.length > 1 ? [guestColumn()] : [];
}

// A part that can be opened; what is in it is made when it is.
function fold(title, make, open) {
  const inside = el("div");
  const node = el("details", { open: open || null }, el("summary", {}, title), inside);
  const fill = () => { if (node.open && !inside.firstChild) put(inside, make()); };
  node.addEventListener("toggle", fill);
  fill();
  return node;
}
