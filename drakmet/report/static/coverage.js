// SPDX-License-Identifier: GPL-2.0-or-later
// What was looked at and when, and each gap with its reason.

const BAR = 16;

function coveragePart() {
  const place = el("div");
  let gapsOnly = false;
  let most = 60;

  function draw() {
    const traps = trapsOf(REPORT.coverage.filter(ofGuest));
    const shown = traps.filter((trap) => !gapsOnly || trap.gaps.length);
    const groups = new Map();
    for (const trap of shown.slice(0, most)) {
      if (!groups.has(trap.session)) groups.set(trap.session, []);
      groups.get(trap.session).push(trap);
    }
    put(place,
      [...groups].map(([session, own]) => sessionBars(session, own)),
      !shown.length && el("p", { class: "note" }, REPORT.coverage.length ? "No trap has a gap here." : "The file says nothing of what was looked at and when: whether all was seen is not known."),
      shown.length > most && button(`Show ${number(shown.length - most)} more`, () => { most += 300; draw(); }));
  }

  onFilter(draw);
  const part = section("coverage", "Coverage",
    el("p", { class: "doc" }, "When each trap or reading saw what it tells of, and where it did not. It is of guests, not of single processes."),
    el("ul", { class: "legend" }, [["armed", "seen"], ["gap", "not seen, or not all"], ["lost", "hits known to be lost"]].map(([kind, name]) => el("li", { class: `key ${kind}` }, name))),
    el("div", { class: "chips" }, button("Only those with gaps", (event) => { gapsOnly = !gapsOnly; event.currentTarget.setAttribute("aria-pressed", String(gapsOnly)); draw(); }, { "aria-pressed": "false" })),
    place);
  part.draw = draw;
  return part;
}

function trapsOf(rows) {
  const found = new Map();
  for (const row of rows) {
    const key = JSON.stringify([row.session, row.plugin, row.trap]);
    if (!found.has(key)) found.set(key, { session: row.session, guest: row.guest, name: `${row.plugin} / ${row.trap}`, tables: row.tables, armed: [], gaps: [], missed: 0 });
    const trap = found.get(key);
    (row.gap ? trap.gaps : trap.armed).push(row);
    trap.missed += row.missed || 0;
  }
  // Those with gaps come first: they are what one must know.
  return [...found.values()].sort((one, other) => one.session - other.session || Boolean(other.gaps.length || other.missed) - Boolean(one.gaps.length || one.missed));
}

function sessionBars(number_, traps) {
  const session = REPORT.sessions.find((one) => one.id === number_);
  const all = traps.flatMap((trap) => [...trap.armed, ...trap.gaps]);
  const begin = Math.min(...all.map((row) => row.begin));
  const end = Math.max(...all.map((row) => row.end ?? session?.end ?? row.begin), begin + 1);
  const title = `${guestName(traps[0].guest)}: session ${number_}, ${when(begin)} UTC, ${duration(end - begin)}`;
  return el("div", { class: "coverage" }, el("h3", {}, text(title)), el("ul", {}, traps.map((trap) => trapBar(trap, begin, end))), axis(begin, end));
}

function trapBar(trap, begin, end) {
  const at = (time) => ((time - begin) / (end - begin)) * 1000;
  const part = (row, kind) => svg("rect", { class: kind, x: at(row.begin), width: Math.max(at(row.end ?? end) - at(row.begin), 4), y: 0, height: BAR },
    svg("title", {}, `${row.kind}: ${clock(row.begin)} – ${row.end === null ? "its end is not known" : clock(row.end)}${row.gap ? `: ${row.gap}` : ""}`));
  const seen = trap.armed.reduce((all, row) => all + (row.end ?? end) - row.begin, 0);
  const share = Math.min(100, (100 * seen) / (end - begin));
  const kinds = [...new Set(trap.gaps.map((row) => row.kind))];
  const reasons = [...new Set(trap.gaps.map((row) => row.gap))].slice(0, 3);
  const worst = kinds.length || trap.missed;
  const words = `${share >= 99.95 ? "whole time" : `${share.toFixed(1)} % of the time`}${trap.missed ? `, ${count(trap.missed, "hit")} lost` : ""}`;
  return el("li", { class: worst ? "trap warn" : "trap" },
    el("span", { class: "name", title: trap.tables }, text(trap.name)),
    svg("svg", { viewBox: `0 0 1000 ${BAR}`, preserveAspectRatio: "none", class: "bar", role: "img", "aria-label": `${trap.name}: seen ${words}${kinds.length ? `; gaps: ${kinds.join(", ")}` : ""}` },
      trap.armed.map((row) => part(row, row.missed ? "armed lost" : "armed")), trap.gaps.map((row) => part(row, "gap"))),
    el("span", { class: "words" }, words),
    reasons.length > 0 && el("span", { class: "why" }, kinds.join(", "), ": ", reasons.map((reason, place) => [place > 0 && "; ", text(reason)])));
}

function axis(begin, end) {
  const marks = ticks(begin, end, 5);
  return el("div", { class: "axis", "aria-hidden": "true" }, marks.map(({ at, label }) => {
    const mark = el("span", {}, label);
    mark.style.insetInlineStart = `${(100 * (at - begin)) / (end - begin)}%`;
    return mark;
  }));
}
