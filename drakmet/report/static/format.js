// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers and times as people read them. Times are nanoseconds since 1970, shown in UTC.

const NUMBER = new Intl.NumberFormat("en");
const SECOND = 1e9;

function number(value) {
  return value === null || value === undefined ? "not known" : NUMBER.format(value);
}

function count(value, one, many) {
  return `${number(value)} ${value === 1 ? one : many || `${one}s`}`;
}

function isoOf(nanoseconds) {
  const moment = new Date(nanoseconds / 1e6);
  return Number.isNaN(moment.getTime()) ? null : moment.toISOString();
}

function when(nanoseconds) {
  const iso = nanoseconds === null || nanoseconds === undefined ? null : isoOf(nanoseconds);
  return iso === null ? "not known" : `${iso.slice(0, 10)} ${iso.slice(11, 23)}`;
}

function clock(nanoseconds) {
  const iso = nanoseconds === null || nanoseconds === undefined ? null : isoOf(nanoseconds);
  return iso === null ? "not known" : iso.slice(11, 23);
}

function duration(nanoseconds) {
  if (nanoseconds === null || nanoseconds === undefined) return "not known";
  const seconds = nanoseconds / SECOND;
  if (seconds < 1e-3) return `${Math.round(nanoseconds / 1e3)} µs`;
  if (seconds < 1) return `${Math.round(nanoseconds / 1e6)} ms`;
  if (seconds < 120) return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function bytes(value) {
  if (value === null || value === undefined) return "not known";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) [value, at] = [value / 1024, at + 1];
  return `${at && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[at]}`;
}

function lastName(path) {
  return path ? path.slice(Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\")) + 1) || path : null;
}

function guestName(id) {
  const guest = GUESTS.get(id);
  return guest ? guest.name : "not known";
}

function endpoint(row) {
  if (row.name) return row.name;
  if (row.address === null && row.path) return row.path;
  const address = row.address === null ? "?" : row.address.includes(":") ? `[${row.address}]` : row.address;
  return row.port === null ? address : `${address}:${row.port}`;
}

const DAY = 86400;
const STEPS = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600,
  7200, 10800, 21600, 43200, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 365 * DAY, 3650 * DAY];

// Round moments between two times, at most `most`, with their labels.
function ticks(begin, end, most) {
  const step = (STEPS.find((one) => (end - begin) / (one * SECOND) <= most) || STEPS.at(-1)) * SECOND;
  const found = [];
  for (let at = Math.ceil(begin / step) * step; at <= end && found.length < 50; at += step) {
    const iso = isoOf(at);
    if (iso === null) break;
    const label = step >= DAY * SECOND ? iso.slice(0, 10) : step < SECOND ? iso.slice(11, 23) : iso.slice(11, step < 60 * SECOND ? 19 : 16);
    found.push({ at, label });
  }
  return found;
}
