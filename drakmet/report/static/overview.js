// SPDX-License-Identifier: GPL-2.0-or-later
// The head of the page: what file it is, and its figures at a glance.

const LEVELS = ["critical", "high", "medium", "low", "informational"];

function drawHead(node) {
  const sessions = REPORT.sessions;
  // What a recording or a log tells of happened before it was read.
  const line = REPORT.timeline;
  const begin = line.lanes.length ? line.begin : sessions.reduce((least, one) => Math.min(least, one.begin), Infinity);
  const end = line.lanes.length ? line.end : sessions.reduce((most, one) => Math.max(most, one.end ?? one.begin), 0);
  const engines = [...new Set(sessions.map((one) => String(one.source).split(":")[0]))].slice(0, 4);
  put(node,
    el("div", { class: "brand" },
      el("p", { class: "mark" }, "drakmet"),
      el("h1", {}, text(REPORT.file)),
      el("p", { class: "facts" }, sessions.length
        ? [`${when(begin)} – ${when(end)} UTC · ${duration(end - begin)} · from `, text(engines.join(", "))]
        : "There is no session in this file."),
    ),
    el("div", { class: "theme" }, button("Light or dark", turnTheme, { id: "theme" })),
    el("ul", { class: "tiles", "aria-label": "At a glance" }, tiles()));
}

function tiles() {
  const happened = REPORT.timeline.lanes.reduce((sum, lane) => sum + lane.rows, 0);
  const { traps, with_gaps: unseen } = REPORT.seen;
  const findings = Object.values(REPORT.levels).reduce((sum, one) => sum + one, 0);
  return [
    tile("findings", findings, "Findings", findings === 0 ? "none is stored" : el("span", { class: "levels" }, LEVELS.filter((level) => REPORT.levels[level]).map((level) =>
      el("span", { class: `level ${level}` }, `${number(REPORT.levels[level])} ${level}`)))),
    tile("guests", REPORT.guests.length, "Guests", `on ${count(REPORT.hosts.length, "host")}`),
    tile("processes", REPORT.processes_total, "Processes", REPORT.processes_total > REPORT.processes.length ? `${number(REPORT.processes.length)} shown` : "told apart by identity"),
    tile("timeline", happened, "Events", happened ? `of ${count(REPORT.timeline.lanes.length, "kind")}` : "nothing was watched"),
    tile("connections", REPORT.connections_total, "Connections", REPORT.connections_total > REPORT.connections.length ? `${number(REPORT.connections.length)} shown` : "process to other end"),
    tile("coverage", traps ? `${number(traps - unseen)} / ${number(traps)}` : "–", "Complete",
      !traps ? "coverage is not known" : unseen ? `${count(unseen, "trap")} with gaps` : "nothing was missed", unseen || !traps ? "warn" : "good"),
  ];
}

function tile(target, figure, title, below, kind) {
  return el("li", { class: kind ? `tile ${kind}` : "tile" }, el("a", { href: `#${target}` },
    el("span", { class: "name" }, title),
    el("span", { class: "figure" }, typeof figure === "number" ? number(figure) : figure),
    el("span", { class: "below" }, below)));
}

function turnTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  say(`The page is ${root.dataset.theme} now`);
}
