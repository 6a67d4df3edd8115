// SPDX-License-Identifier: GPL-2.0-or-later
// Events over time, a lane for each kind, with an axis of time below and of numbers at each lane; drag to zoom.

const TITLES = {
  process_start: "Programs started", file_open: "Files opened", net_connect: "Connections", net_datagram: "Datagrams",
  dns_query: "DNS names asked", file_write: "Files written", file_rename: "Renamed", file_remove: "Removed", file_chmod: "Modes changed",
  file_chown: "Owners changed", file_close: "Written and closed", net_listen: "Listening begun", net_bind: "Sockets bound", process_exit: "Processes ended",
  process_fork: "Processes made", file_map: "Code mapped",
};
const LANE = 46;
const LEFT = 168;
const RIGHT = 12;

function laneTitle(lane) {
  return TITLES[lane.table] || lane.table.replace(/^drakvuf_/, "DRAKVUF ").replaceAll("_", " ");
}

function timelinePart() {
  const line = REPORT.timeline;
  const width = Math.max((line.end - line.begin) / line.bins, 1);
  const plot = el("div", { class: "plot" });
  const readout = el("p", { class: "readout" });
  const below = el("div");
  let from = 0;
  let to = line.bins;
  let pulled = null;

  if (!line.lanes.length) {
    return section("timeline", "Timeline", el("p", { class: "note" }, "This file tells of moments, not of what happened between them: nothing was watched."));
  }

  const timeOf = (bin) => line.begin + bin * width;

  function counted() {
    const lanes = line.lanes.map(() => new Float64Array(line.bins));
    let left = 0;
    for (const one of line.cells) {
      if (passes(one)) lanes[one.lane][one.bin] += one.number;
      else if (one.process === null && chosen !== null) left += one.number;
    }
    return { lanes, left };
  }

  function draw() {
    const { lanes, left } = counted();
    const full = Math.max(plot.clientWidth || 960, 420);
    const inner = full - LEFT - RIGHT;
    // Bars at least three pixels wide, each of whole bins.
    const each = Math.max(1, Math.ceil(((to - from) * 3) / inner));
    const bars = Math.ceil((to - from) / each);
    const x = (bin) => LEFT + ((bin - from) / (to - from)) * inner;
    const height = LANE * lanes.length;
    const marks = ticks(timeOf(from), timeOf(to), Math.max(2, inner / 110));
    const root = svg("svg", { width: full, height: height + 42, viewBox: `0 0 ${full} ${height + 42}`, role: "img", tabindex: "0",
      "aria-label": `Events over time from ${when(timeOf(from))} to ${when(timeOf(to))} UTC: ${line.lanes.map((lane, at) => `${laneTitle(lane)} ${number(sum(lanes[at], from, to))}`).join(", ")}. Plus and minus zoom, arrows move.` });
    for (const { at } of marks) {
      const where = Math.round(x((at - line.begin) / width)) + 0.5;
      root.append(svg("line", { class: "grid", x1: where, x2: where, y1: 0, y2: height }));
    }
    lanes.forEach((values, at) => root.append(laneOf(line.lanes[at], values, at, { each, bars, x, full })));
    for (const { at, label } of marks) root.append(tickLabel(x((at - line.begin) / width), height + 16, full, label));
    root.append(svg("text", { class: "unit", x: LEFT + inner / 2, y: height + 34, "text-anchor": "middle" },
      `time, UTC${isoOf(timeOf(from)) ? `, ${isoOf(timeOf(from)).slice(0, 10)}` : ""} · a bar is ${duration(each * width)}`));
    const cursor = svg("line", { class: "cursor", y1: 0, y2: height, visibility: "hidden" });
    const brush = svg("rect", { class: "brush", y: 0, height, visibility: "hidden" });
    root.append(brush, cursor);
    pointers(root, { x, inner, each, lanes, cursor, brush });
    root.addEventListener("keydown", (event) => {
      const act = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), Escape: () => range(0, line.bins), 0: () => range(0, line.bins) }[event.key];
      if (act) { act(); event.preventDefault(); plot.querySelector("svg").focus(); }
    });
    put(plot, root);
    put(readout, rangeText(lanes), left > 0 && el("span", { class: "warn" }, ` · ${number(left)} events of processes that are counted together are left out`));
    put(below, eventsTable());
  }

  function laneOf(lane, values, at, { each, bars, x, full }) {
    const top = at * LANE;
    const sums = Array.from({ length: bars }, (_, bar) => sum(values, from + bar * each, Math.min(from + (bar + 1) * each, to)));
    const most = Math.max(...sums, 1);
    const group = svg("g", { class: `lane lane-${at % 6}` });
    group.append(
      svg("line", { class: "base", x1: LEFT, x2: full - RIGHT, y1: top + LANE - 0.5, y2: top + LANE - 0.5 }),
      svg("text", { class: "title", x: 0, y: top + 22 }, laneTitle(lane), svg("title", {}, lane.doc)),
      svg("text", { class: "unit", x: 0, y: top + 37 }, `${number(sum(values, from, to))} of ${number(lane.rows)}`),
      svg("text", { class: "tick", x: LEFT - 6, y: top + 15, "text-anchor": "end" }, number(most)),
      svg("text", { class: "tick", x: LEFT - 6, y: top + LANE - 2, "text-anchor": "end" }, "0"));
    sums.forEach((value, bar) => {
      if (!value) return;
      const begin = Math.round(x(from + bar * each));
      const end = Math.round(x(Math.min(from + (bar + 1) * each, to)));
      const high = Math.max(2, Math.round((value / most) * (LANE - 10)));
      group.append(svg("rect", { class: "bar", x: begin, width: Math.max(end - begin - 1, 1), y: top + LANE - 1 - high, height: high }));
    });
    return group;
  }

  function pointers(root, { x, inner, each, lanes, cursor, brush }) {
    const binAt = (event) => from + ((event.clientX - root.getBoundingClientRect().left - LEFT) / inner) * (to - from);
    root.addEventListener("pointerdown", (event) => { if (event.button === 0 && binAt(event) >= from) { pulled = binAt(event); root.setPointerCapture(event.pointerId); } });
    root.addEventListener("pointermove", (event) => {
      const bin = Math.min(Math.max(binAt(event), from), to - 1e-6);
      cursor.setAttribute("x1", x(bin));
      cursor.setAttribute("x2", x(bin));
      cursor.setAttribute("visibility", "visible");
      if (pulled !== null) {
        brush.setAttribute("x", x(Math.min(bin, pulled)));
        brush.setAttribute("width", Math.abs(x(bin) - x(pulled)));
        brush.setAttribute("visibility", "visible");
      }
      const first = from + Math.floor((bin - from) / each) * each;
      const told = line.lanes.map((lane, at) => [laneTitle(lane), sum(lanes[at], first, Math.min(first + each, to))]).filter(([, value]) => value);
      readout.textContent = `${clock(timeOf(first))} – ${clock(timeOf(first + each))}: ${told.map(([name, value]) => `${name} ${number(value)}`).join(", ") || "nothing"}`;
    });
    root.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); put(readout, rangeText(lanes)); });
    root.addEventListener("pointerup", (event) => {
      const [one, other] = [pulled, Math.min(Math.max(binAt(event), from), to)].sort((a, b) => a - b);
      pulled = null;
      brush.setAttribute("visibility", "hidden");
      if (other - one > (to - from) / 200) range(Math.floor(one), Math.ceil(other));
    });
  }

  function rangeText(lanes) {
    return `${when(timeOf(from))} – ${when(timeOf(to))} UTC, ${duration((to - from) * width)}: ${number(lanes.reduce((all, values) => all + sum(values, from, to), 0))} events`;
  }

  function range(begin, end) {
    from = Math.max(0, Math.min(begin, line.bins - 4));
    to = Math.min(line.bins, Math.max(end, from + 4));
    draw();
  }

  function zoom(by) {
    const half = Math.max(2, ((to - from) * by) / 2);
    const middle = (from + to) / 2;
    range(Math.round(middle - half), Math.round(middle + half));
  }

  function move(by) {
    const step = Math.round((to - from) * by);
    const wide = to - from;
    const begin = Math.min(Math.max(0, from + step), line.bins - wide);
    range(begin, begin + wide);
  }

  function eventsTable() {
    const [begin, end] = [timeOf(from), timeOf(to)];
    const rows = REPORT.events.filter((one) => one.time >= begin && one.time <= end + 1 && passes(one)).sort((a, b) => a.time - b.time);
    const listed = line.lanes.filter((lane) => lane.listed < lane.rows);
    return fold(`Events in this range: ${number(rows.length)} listed${listed.length ? ` (of ${listed.map((lane) => `${laneTitle(lane)} ${number(lane.listed)} in ${number(lane.rows)}`).join(", ")})` : ""}`, () =>
      table("Events", [
        { title: "Time (UTC)", get: (row) => row.time, show: (row) => clock(row.time) }, ...guestColumns(),
        { title: "What", get: (row) => TITLES[row.table] || row.table }, processColumn(),
        { title: "Told", get: (row) => row.text, kind: "wide" },
      ], rows, "No listed event is in this range and passes the filter."), below.querySelector("details")?.open);
  }

  onFilter(draw);
  new ResizeObserver(() => { if (plot.clientWidth && Math.abs(plot.clientWidth - Number(plot.firstChild?.getAttribute("width"))) > 1) draw(); }).observe(plot);
  const controls = el("div", { class: "chips", role: "group", "aria-label": "Zoom" },
    button("Zoom in", () => zoom(0.5)), button("Zoom out", () => zoom(2)), button("◂", () => move(-0.25), { "aria-label": "Earlier" }),
    button("▸", () => move(0.25), { "aria-label": "Later" }), button("All", () => range(0, line.bins)));
  const part = section("timeline", "Timeline",
    el("p", { class: "doc" }, "Each lane has its own scale, whose top is at its left. Drag over a stretch to look closer."), controls, readout, plot, below);
  part.draw = draw;
  return part;
}

// At the edge a label stands beside its mark, else it would be cut off.
function tickLabel(x, y, full, label) {
  const edge = x > full - label.length * 3.6;
  return svg("text", { class: "tick", x: edge ? full : x, y, "text-anchor": edge ? "end" : "middle" }, label);
}

function sum(values, begin, end) {
  let all = 0;
  for (let at = Math.floor(begin); at < end; at++) all += values[at];
  return all;
}
