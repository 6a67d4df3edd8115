// SPDX-License-Identifier: GPL-2.0-or-later
// Software with its versions and known holes, where pages were identified.

function applicationsPart() {
  const place = el("div");
  const draw = () => put(place, REPORT.applications.length ? REPORT.applications.map(applicationTable) : el("p", { class: "note" },
    "Pages of code were not identified in this file, so that applications and their versions are not known. That is not the same as none, or none with holes."));
  onFilter(draw);
  draw();
  return section("applications", "Applications", place, holesPart());
}

const OPEN_HOLES = ["affected", "may be affected"];

function holesPart() {
  const place = el("div");
  const draw = () => put(place, REPORT.advisories.length ? [holesTable(), advisoriesTable()] : el("p", { class: "note" },
    "What runs was not compared with advisories, so that its known holes are not known. That is not the same as none."));
  onFilter(draw);
  draw();
  return el("div", { id: "holes" }, el("h3", {}, "Known holes"), place);
}

function holesTable() {
  const rows = REPORT.holes.filter(ofGuest);
  const open = rows.filter((row) => OPEN_HOLES.includes(row.state));
  return el("div", {},
    el("p", { class: "doc" }, `${count(open.length, "hole")} of the versions that run are or may be open. A package of which no advisory speaks is not listed, and not known.`),
    table("Known holes", [
      ...guestColumns(),
      { title: "Hole", get: (row) => row.hole },
      { title: "State", get: (row) => row.state },
      { title: "Package", get: (row) => row.package },
      { title: "Version that runs", get: (row) => row.version },
      { title: "Closed in", get: (row) => row.fixed_in },
      { title: "Urgency", get: (row) => row.urgency },
      { title: "Processes", number: true, get: (row) => row.processes },
      { title: "Rests on", get: (row) => row.rests_on },
      { title: "Remark", get: (row) => row.why },
    ], rows, "No advisory speaks of what runs here: its holes are not known."));
}

function advisoriesTable() {
  return table("Advisories", [
    ...guestColumns(),
    { title: "File", get: (row) => row.name },
    { title: "Kind", get: (row) => row.kind },
    { title: "Made", get: (row) => row.date, show: (row) => (row.date === null ? cell(null) : text(when(row.date))) },
    { title: "SHA-256", get: (row) => row.digest },
    { title: "Statements", number: true, get: (row) => row.statements },
    { title: "Not understood", number: true, get: (row) => row.refused },
    { title: "Why", get: (row) => row.why },
  ], REPORT.advisories.filter(ofGuest), "None is of this guest.");
}

function applicationTable(found) {
  const rows = found.rows.filter(found.rows.some((row) => row.process !== null) ? passes : ofGuest);
  const title = found.table.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase());
  return el("div", {}, el("p", { class: "doc" }, found.doc), table(title, [
    ...guestColumns(),
    ...found.columns.map((name, at) => ({ title: name.replaceAll("_", " ").replace(/^./, (c) => c.toUpperCase()), get: (row) => row.values[at] })),
    ...(found.rows.some((row) => row.process !== null) ? [processColumn()] : []),
  ], rows, "None passes the filter."));
}
