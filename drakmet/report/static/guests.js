// SPDX-License-Identifier: GPL-2.0-or-later
// Hosts and guests, the runs over them, and what a scan found in them.

function guestsPart() {
  const place = el("div");
  const draw = () => {
    const rows = REPORT.guests.filter((one) => FILTER.guest === null || one.id === FILTER.guest);
    put(place, rows.length > 12 ? guestTable(rows) : el("div", { class: "cards" }, rows.map(guestCard)),
      !REPORT.guests.length && el("p", { class: "note" }, "There is no guest in this file."),
      hostsFold(), sessionsFold(), inventories());
  };
  onFilter(draw);
  draw();
  return section("guests", "Guests and hosts", place);
}

function levelsOf(guest) {
  return LEVELS.map((level) => [level, guest.levels[level]]).filter(([, rows]) => rows);
}

function hostName(guest) {
  return HOSTS.get(guest.host)?.name ?? null;
}

function kernelOf(guest) {
  return guest.release ?? /^Linux version (\S+)/.exec(guest.kernel || "")?.[1] ?? guest.kernel;
}

function guestCard(guest) {
  const lines = [
    ["Host", hostName(guest)], ["System", guest.os], ["Kernel", kernelOf(guest)],
    ["Built", guest.version], ["Host name", guest.hostname],
    ["Up for", guest.uptime == null ? null : duration(guest.uptime)],
    ["Memory", guest.memory == null ? null : `${bytes(guest.memory)} readable`], ["CPUs", guest.cpus],
    ["Taint", guest.taint ? `${guest.taint}` : null], ["Build-id", guest.build_id], ["UUID", guest.uuid],
  ].filter(([, value]) => value !== null && value !== undefined);
  const levels = levelsOf(guest);
  return el("article", { class: "card", "aria-label": `Guest ${guest.name}` },
    el("h3", {}, button(text(guest.name), () => setFilter({ guest: FILTER.guest === guest.id ? null : guest.id }),
      { class: "link", "aria-pressed": String(FILTER.guest === guest.id), title: "Show only this guest" })),
    el("p", { class: "levels" }, levels.length ? levels.map(([level, rows]) => el("span", { class: `level ${level}` }, `${number(rows)} ${level}`))
      : el("span", { class: "unknown" }, "no findings stored")),
    el("dl", { class: "pairs" }, lines.map(([name, value]) => pair(name, text(value)))));
}

function guestTable(rows) {
  return table("Guests", [
    { title: "Guest", get: (row) => row.name, show: (row) => button(text(row.name), () => setFilter({ guest: row.id }), { class: "link" }) },
    { title: "Host", get: hostName }, { title: "System", get: (row) => row.os },
    { title: "Kernel", get: kernelOf },
    { title: "Findings", number: true, get: (row) => levelsOf(row).reduce((sum, [, rows]) => sum + rows, 0),
      show: (row) => el("span", { class: "levels" }, levelsOf(row).map(([level, rows]) => el("span", { class: `level ${level}` }, `${number(rows)} ${level}`))) },
    { title: "Up for", number: true, get: (row) => row.uptime ?? null, show: (row) => (row.uptime == null ? "–" : duration(row.uptime)) },
  ], rows);
}

function hostsFold() {
  if (!REPORT.hosts.some((one) => one.outcome) && REPORT.hosts.length < 2) return null;
  const failed = REPORT.hosts.filter((one) => one.outcome && one.outcome !== "done").length;
  return fold(`Hosts: ${number(REPORT.hosts.length)}${failed ? `, of them ${number(failed)} not done` : ""}`, () => table("Hosts", [
    { title: "Host", get: (row) => row.name }, { title: "Xen", get: (row) => row.xen },
    { title: "Outcome", get: (row) => row.outcome }, { title: "Why", get: (row) => row.reason, kind: "wide" },
  ], REPORT.hosts), failed > 0);
}

function sessionsFold() {
  const rows = REPORT.sessions.filter(ofGuest);
  return rows.length > 0 && fold(`Sessions: ${number(rows.length)}`, () => table("Sessions", [
    { title: "No.", number: true, get: (row) => row.id }, guestColumn(), { title: "Source", get: (row) => row.source },
    { title: "Begin (UTC)", get: (row) => row.begin, show: (row) => when(row.begin) },
    { title: "Lasted", number: true, get: (row) => (row.end === null ? null : row.end - row.begin), show: (row) => (row.end === null ? "has no end" : duration(row.end - row.begin)) },
    { title: "Outcome", get: (row) => row.outcome },
    { title: "Guest paused", number: true, get: (row) => row.paused_attach, show: (row) => (row.paused_attach === null ? "–" : duration(row.paused_attach)) },
    { title: "drakmet", get: (row) => row.drakmet },
  ], rows), rows.length < 8);
}

// A part of a table that is longer than a report lists says so, as what is filtered out of it may be all there is.
function inventory(title, rows, columns, open, table_) {
  const passing = rows.filter(rows.some((row) => "process" in row) ? passes : ofGuest);
  return rows.length > 0 && fold(`${title}: ${number(passing.length)}${listedOf(rows, table_)}`, () => table(title, [...guestColumns(), ...columns], passing, "None passes the filter."), open);
}

function listedOf(rows, table_) {
  const all = REPORT.totals[table_] ?? 0;
  return all > rows.length ? ` (of ${number(rows.length)} listed; the file has ${number(all)})` : "";
}

function inventories() {
  const plain = (...names) => names.map((name) => ({ title: name.replace("_", " ").replace(/^./, (c) => c.toUpperCase()), get: (row) => row[name], number: ["size", "port", "number"].includes(name) }));
  return [
    inventory("Hidden objects", REPORT.hidden, plain("kind", "name", "number", "seen_in", "missing_in"), true),
    inventory("Listening", REPORT.listeners, [
      { title: "Address", get: (row) => endpoint(row) }, { title: "Protocol", get: (row) => row.protocol ?? row.family }, processColumn()]),
    inventory("Kernel modules", REPORT.modules, plain("name", "version", "size", "state", "taint"), false, "kernel_module"),
    inventory("Mounts", REPORT.mounts, plain("path", "type", "source", "options", "device"), false, "mount_point"),
    inventory("Errors of plugins", REPORT.faults, plain("plugin", "trap", "error"), true),
  ];
}
