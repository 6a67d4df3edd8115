// SPDX-License-Identifier: GPL-2.0-or-later
// Who started whom. A process is told by its identity: a pid that is used again is another one.

function folder(one) {
  const path = one.program || "";
  const above = path.slice(0, path.length - (lastName(path) || "").length);
  return above && el("span", { class: "folder", title: path }, text(above, "path"));
}

function processesPart() {
  const closed = new Set();
  const body = el("tbody");
  const note = el("p", { class: "more" });
  let most = 400;
  let kernel = false;
  const visible = REPORT.processes.filter((one) => !one.kernel_thread).length;
  if (visible > 400) for (const one of REPORT.processes) if (CHILDREN.has(one.id) && one.parent !== null) closed.add(one.id);
  const threads = REPORT.processes.length - visible;

  // What passes the filter, with all above it.
  function kept() {
    const keep = new Set();
    for (const one of REPORT.processes) {
      if (!(kernel || !one.kernel_thread) || !passes({ guest: one.guest, process: one.id })) continue;
      for (let at = one; at && !keep.has(at.id); at = BY_ID.get(at.parent)) keep.add(at.id);
    }
    return keep;
  }

  function draw() {
    const keep = kept();
    const rows = [];
    const waiting = (CHILDREN.get(null) || []).map((one) => [one, 1]).reverse();
    const open = chosen !== null;
    while (waiting.length && rows.length <= most) {
      const [one, depth] = waiting.pop();
      if (!keep.has(one.id)) continue;
      const children = (CHILDREN.get(one.id) || []).filter((child) => keep.has(child.id));
      const expanded = open || !closed.has(one.id);
      rows.push(processRow(one, depth, children.length, expanded));
      if (expanded) for (const child of [...children].reverse()) waiting.push([child, depth + 1]);
    }
    const more = rows.length > most;
    put(body, rows.slice(0, most));
    put(note, REPORT.processes_total > REPORT.processes.length && `Listed are ${number(REPORT.processes.length)} of ${number(REPORT.processes_total)} processes. `, !keep.size && "No process passes the filter.", more && [`The first ${number(most)} rows. `, button("Show more", () => { most += 1000; draw(); })]);
  }

  function processRow(one, depth, children, expanded) {
    const toggle = children
      ? button(expanded ? "▾" : "▸", () => { expanded ? closed.add(one.id) : closed.delete(one.id); draw(); refocus(one.id); },
        { class: "toggle", "aria-label": `${expanded ? "Close" : "Open"} what ${lastName(one.program) || "it"} started` })
      : el("span", { class: "toggle" });
    const ended = one.signal ? `signal ${one.signal}` : one.status === null ? (one.end === null ? "" : "ended") : `exit ${one.status}`;
    const name = el("td", { class: "tree" }, toggle, processButton(one.id, true), folder(one), one.findings > 0 && el("span", { class: "level high", title: "findings" }, count(one.findings, "finding")));
    name.style.setProperty("--depth", Math.min(depth - 1, 30));
    return el("tr", { "aria-level": depth, "aria-expanded": children ? String(expanded) : null, "data-process": one.id,
      class: chosen && !chosen.has(one.id) ? "faint" : null },
      name,
      el("td", { class: "wide" }, one.argv ? text(one.argv) : el("span", { class: "unknown" }, one.kernel_thread ? "kernel thread" : "–")),
      el("td", { class: "number" }, one.uid === null ? "–" : one.uid),
      el("td", { class: "nowrap" }, one.begin === null ? el("span", { class: "unknown" }, "before") : clock(one.begin)),
      el("td", { class: "nowrap" }, one.end === null ? el("span", { class: "unknown" }, "–") : clock(one.end)),
      el("td", { class: "nowrap" }, ended),
      el("td", { class: "number" }, number(one.events)));
  }

  function refocus(id) {
    body.querySelector(`tr[data-process="${Number(id)}"] button.toggle`)?.focus();
  }

  // Up and down go from row to row, right and left open and close, as in every tree.
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    if (row && step) {
      row[step]?.querySelector("button.link")?.focus();
      event.preventDefault();
    } else if (row && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      const wanted = event.key === "ArrowRight" ? "false" : "true";
      if (row.getAttribute("aria-expanded") === wanted) row.querySelector("button.toggle").click();
      event.preventDefault();
    }
  });

  const all = [
    button("Open all", () => { closed.clear(); draw(); }),
    button("Close all", () => { for (const one of REPORT.processes) if (CHILDREN.has(one.id)) closed.add(one.id); draw(); }),
    threads > 0 && button(`Kernel threads (${number(threads)})`, (event) => { kernel = !kernel; event.currentTarget.setAttribute("aria-pressed", String(kernel)); draw(); }, { "aria-pressed": "false" }),
  ];
  const heads = [["Process and pid"], ["Arguments"], ["uid", "number"], ["Began (UTC)"], ["Ended"], ["With"], ["Events", "number"]];
  onFilter(draw);
  draw();
  return section("processes", "Processes",
    el("p", { class: "doc" }, "Who started whom. A pid that is used again is another process here. Choose one to see only it and what it started, everywhere on the page."),
    el("div", { class: "chips" }, all),
    el("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Tree of processes" },
      el("table", { role: "treegrid", "aria-label": "Tree of processes" },
        el("thead", {}, el("tr", {}, heads.map(([title, kind]) => el("th", { scope: "col", class: kind || null }, title)))), body)),
    note);
}
