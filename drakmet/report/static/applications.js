// SPDX-License-Identifier: GPL-2.0-or-later
// Software with its versions and known holes, where pages were identified.

function applicationsPart() {
  const place = el("div");
  const draw = () => put(place, REPORT.applications.length ? REPORT.applications.map(applicationTable) : el("p", { class: "note" },
    "Pages of code were not identified in this file, so that applications and their versions are not known. That is not the same as none, or none with holes."));
  onFilter(draw);
  draw();
  return section("applications", "Applications", place);
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
