// SPDX-License-Identifier: GPL-2.0-or-later
// Who spoke, or meant to speak, with whom: programs on the left, addresses and DNS names on the right.

const MOST_NODES = 36;
const ALIKE = 6;
const GAP = 22;

function connectionsPart() {
  const plot = el("div", { class: "plot" });
  const below = el("div");
  if (!REPORT.connections.length) {
    return section("connections", "Connections", el("p", { class: "note" }, "No connection, datagram or DNS question is in this file. The coverage says whether anybody looked for them."));
  }

  function draw() {
    const rows = REPORT.connections.filter(passes);
    const edges = grouped(rows);
    const left = ranked(edges, "program");
    const right = ranked(edges, "end");
    const shown = edges.filter((edge) => left.has(edge.program) && right.has(edge.end));
    put(plot, shown.length ? map(shown, plot.clientWidth || 960) : el("p", { class: "note" }, "No connection passes the filter."),
      shown.length < edges.length && el("p", { class: "note" }, `Drawn are the ${number(shown.length)} most frequent of ${number(edges.length)} lines; all are in the table.`));
    put(below, table("Connections", [
      ...guestColumns(), processColumn(), { title: "To", get: endpoint, kind: "wide" },
      { title: "How", get: how }, { title: "Times", number: true, get: (row) => row.count },
      { title: "Failed at once", number: true, get: (row) => row.failed },
      { title: "First (UTC)", get: (row) => row.first, show: (row) => when(row.first) },
      { title: "Last", get: (row) => row.last, show: (row) => clock(row.last) },
    ], rows, "No connection passes the filter."));
  }

  onFilter(draw);
  new ResizeObserver(() => { const drawn = Number(plot.firstChild?.getAttribute?.("width")); if (plot.clientWidth && drawn && Math.abs(plot.clientWidth - drawn) > 1) draw(); }).observe(plot);
  draw();
  return section("connections", "Connections",
    el("p", { class: "doc" }, "The thicker a line, the more often. Choose a program or an end to see what belongs to it."),
    el("ul", { class: "legend" }, [["tcp", "TCP"], ["udp", "UDP"], ["dns", "DNS name asked"], ["open", "socket open at a scan"], ["failed", "failed at once"]].map(([kind, name]) => el("li", { class: `key ${kind}` }, name))),
    plot, below);
}

function how(row) {
  return { dns_query: "DNS name asked", open_socket: `${row.protocol || "socket"}, open` }[row.table] || row.protocol || "not known";
}

function kindOf(row) {
  if (row.table === "dns_query") return "dns";
  if (row.table === "open_socket") return "open";
  return row.protocol === "tcp" ? "tcp" : "udp";
}

// One line for each program and end; many ends of one program that differ in one thing only are one.
function grouped(rows) {
  const alike = new Map();
  const note = (key, value) => { if (!alike.has(key)) alike.set(key, new Set()); alike.get(key).add(value); };
  const program = (row) => BY_ID.get(row.process)?.program ?? "not known";
  for (const row of rows) {
    if (row.name) continue;
    note(`port ${program(row)} ${row.port} ${kindOf(row)}`, row.address);
    note(`address ${program(row)} ${row.address} ${kindOf(row)}`, row.port);
  }
  const edges = new Map();
  for (const row of rows) {
    const name = program(row);
    const addresses = alike.get(`port ${name} ${row.port} ${kindOf(row)}`)?.size ?? 0;
    const ports = alike.get(`address ${name} ${row.address} ${kindOf(row)}`)?.size ?? 0;
    let end = endpoint(row);
    if (addresses > ALIKE && addresses >= ports) end = `${addresses} addresses, port ${row.port}`;
    else if (ports > ALIKE) end = `${row.address}, ${ports} ports`;
    const key = JSON.stringify([name, end, kindOf(row)]);
    const edge = edges.get(key) || { program: name, end, kind: kindOf(row), count: 0, failed: 0, row };
    edge.count += row.count;
    edge.failed += row.failed;
    edges.set(key, edge);
  }
  return [...edges.values()].sort((one, other) => other.count - one.count);
}

function ranked(edges, side) {
  const counts = new Map();
  for (const edge of edges) counts.set(edge[side], (counts.get(edge[side]) || 0) + edge.count);
  return new Map([...counts].sort((one, other) => other[1] - one[1]).slice(0, MOST_NODES));
}

function map(edges, width) {
  const left = ranked(edges, "program");
  // An end stands at the height of those who speak with it, so that few lines cross.
  const places = new Map([...left.keys()].map((name, at) => [name, at]));
  const height = new Map();
  for (const edge of edges) {
    const [sum, n] = height.get(edge.end) || [0, 0];
    height.set(edge.end, [sum + places.get(edge.program), n + 1]);
  }
  const right = new Map([...height].sort((one, other) => one[1][0] / one[1][1] - other[1][0] / other[1][1]).map(([name]) => [name, 0]));
  const full = Math.max(width, 480);
  const side = Math.min(280, full * 0.34);
  const most = Math.max(left.size, right.size);
  const yOf = (names) => new Map([...names.keys()].map((name, at) => [name, (at + 0.5) * ((most * GAP) / names.size)]));
  const [ys, yd] = [yOf(left), yOf(right)];
  const top = Math.max(...edges.map((edge) => edge.count));
  const root = svg("svg", { width: full, height: most * GAP, viewBox: `0 0 ${full} ${most * GAP}`, role: "group", class: "map",
    "aria-label": `Map of connections: ${count(left.size, "program")} and ${count(right.size, "other end")}` });
  const lines = edges.map((edge) => {
    const [x1, x2, y1, y2] = [side, full - side, ys.get(edge.program), yd.get(edge.end)];
    const bend = (x2 - x1) * 0.45;
    const line = svg("path", { class: `edge ${edge.kind}${edge.failed >= edge.count ? " failed" : ""}`, d: `M${x1},${y1}C${x1 + bend},${y1} ${x2 - bend},${y2} ${x2},${y2}` },
      svg("title", {}, `${edge.program} → ${edge.end}: ${count(edge.count, "time")}${edge.failed ? `, ${number(edge.failed)} failed at once` : ""}`));
    line.style.strokeWidth = `${1.25 + 5 * (Math.log1p(edge.count) / Math.log1p(Math.max(top, 8)))}px`;
    root.append(line);
    return [edge, line];
  });
  const mark = (match) => { for (const [edge, line] of lines) line.classList.toggle("dim", match !== null && !match(edge)); };
  const node = (name, y, isLeft) => {
    const own = (edge) => (isLeft ? edge.program : edge.end) === name;
    const shown = fit(isLeft ? lastName(name) : name, side / 7.4);
    const total = edges.filter(own).reduce((all, edge) => all + edge.count, 0);
    root.append(svg("g", { class: "node", tabindex: "0", role: "button", "aria-label": `${name}: ${count(total, "time")}`,
      pointerenter: () => mark(own), pointerleave: () => mark(null), focus: () => mark(own), blur: () => mark(null),
      click: () => choose(name, isLeft, own, edges), keydown: (event) => { if (event.key === "Enter" || event.key === " ") { choose(name, isLeft, own, edges); event.preventDefault(); } } },
      svg("title", {}, name),
      svg("rect", { x: isLeft ? 0 : full - side, y: y - GAP / 2, width: side, height: GAP, class: "hit" }),
      svg("circle", { cx: isLeft ? side : full - side, cy: y, r: 3.5 }),
      svg("text", { x: isLeft ? side - 9 : full - side + 9, y: y + 4, "text-anchor": isLeft ? "end" : "start", direction: "ltr" }, shown)));
  };
  for (const [name, y] of ys) node(name, y, true);
  for (const [name, y] of yd) node(name, y, false);
  return root;
}

function choose(name, isLeft, own, edges) {
  const words = isLeft ? name : edges.filter(own)[0].program;
  setFilter({ words: FILTER.words === words ? "" : words });
}

function fit(value, most) {
  const name = String(value);
  return name.length > most ? `${name.slice(0, most / 2)}…${name.slice(-(most / 2 - 1))}` : name;
}
