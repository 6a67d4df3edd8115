// SPDX-License-Identifier: GPL-2.0-or-later
// The data of the page, and the one filter that acts on all its parts.

const PACKED = JSON.parse(document.getElementById("data").textContent);

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  if (!("#columns" in value)) {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, unpack(one)]));
  }
  const rows = Array.from({ length: value["#rows"] }, () => ({}));
  for (const [name, column] of Object.entries(value["#columns"])) {
    const values = column.t ? column.t.map((at) => (at === null ? null : PACKED.texts[at])) : column.v;
    for (let at = 0; at < rows.length; at++) rows[at][name] = column.t ? values[at] : unpack(values[at]);
  }
  return rows;
}

const REPORT = unpack(PACKED.data);
const BY_ID = new Map(REPORT.processes.map((one) => [one.id, one]));
const GUESTS = new Map(REPORT.guests.map((one) => [one.id, one]));
const HOSTS = new Map(REPORT.hosts.map((one) => [one.id, one]));
const CHILDREN = new Map();
for (const one of REPORT.processes) {
  const above = BY_ID.has(one.parent) ? one.parent : null;
  if (!CHILDREN.has(above)) CHILDREN.set(above, []);
  CHILDREN.get(above).push(one);
}

const FILTER = { guest: null, words: "", process: null };
const WATCHERS = [];
let chosen = null;

function onFilter(draw) {
  WATCHERS.push(draw);
}

function setFilter(change) {
  Object.assign(FILTER, change);
  chosen = chosenProcesses();
  for (const draw of WATCHERS) draw();
  const count = chosen ? chosen.size : REPORT.processes.length;
  say(filtering() ? `Filtered: ${count} processes` : "All is shown");
}

function filtering() {
  return FILTER.guest !== null || chosen !== null;
}

function chosenProcesses() {
  if (FILTER.process === null && !FILTER.words) return null;
  let among = REPORT.processes;
  if (FILTER.process !== null) among = below(FILTER.process);
  const words = FILTER.words.toLowerCase();
  return new Set(among.filter((one) => !words || named(one, words)).map((one) => one.id));
}

function named(one, words) {
  return String(one.pid) === words || [one.program, one.argv].some((value) => value && value.toLowerCase().includes(words));
}

function below(id) {
  const found = [];
  const waiting = [BY_ID.get(id)];
  while (waiting.length) {
    const one = waiting.pop();
    found.push(one);
    waiting.push(...(CHILDREN.get(one.id) || []));
  }
  return found;
}

function passes(row) {
  if (FILTER.guest !== null && row.guest !== FILTER.guest) return false;
  return chosen === null || chosen.has(row.process);
}

// For what belongs to a guest and to no process.
function ofGuest(row) {
  return FILTER.guest === null || row.guest === FILTER.guest;
}
