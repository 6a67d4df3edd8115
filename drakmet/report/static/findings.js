// SPDX-License-Identifier: GPL-2.0-or-later
// Findings by level, each with its rule, the rows it rests on, and whether all was seen; and rules that found nothing.

function findingsPart() {
  const hidden = new Set();
  const list = el("div", { class: "findings" });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Levels that are shown" });
  let shown = 40;

  function draw() {
    const passing = REPORT.findings.filter(passes);
    put(chips, LEVELS.map((level) => {
      const rows = passing.filter((one) => one.level === level).length;
      return rows > 0 && button(`${number(rows)} ${level}`, () => { hidden.has(level) ? hidden.delete(level) : hidden.add(level); draw(); },
        { class: `level ${level}`, "aria-pressed": String(!hidden.has(level)) });
    }));
    const rows = passing.filter((one) => !hidden.has(one.level));
    put(list, rows.slice(0, shown).map(findingCard),
      !rows.length && el("p", { class: "note" }, nothing()),
      unlisted() && el("p", { class: "note" }, unlisted()),
      rows.length > shown && button(`Show ${number(rows.length - shown)} more`, () => { shown += 300; draw(); }));
  }

  onFilter(draw);
  draw();
  return section("findings", "Findings", chips, list, rulesFold());
}

function unlisted() {
  const all = Object.values(REPORT.levels).reduce((sum, one) => sum + one, 0);
  return all > REPORT.findings.length && `Listed are the gravest ${number(REPORT.findings.length)} of ${number(all)} findings.`;
}

function nothing() {
  if (REPORT.findings.length) return "No finding passes the filter.";
  return "No finding is stored. That means something only for rules whose records were collected: see below, and the coverage.";
}

function findingCard(one) {
  const complete = one.coverage === "complete";
  return el("details", { class: `finding ${one.level}` },
    el("summary", {},
      el("span", { class: `level ${one.level}` }, one.level),
      el("span", { class: "what" }, text(one.message)),
      el("span", { class: "aside" },
        REPORT.guests.length > 1 && text(guestName(one.guest), "guest"),
        el("span", { class: "time" }, clock(one.time)),
        el("span", { class: `seen ${complete ? "good" : one.coverage ? "warn" : "unknown"}` }, complete ? "all seen" : one.coverage ? "gaps" : "not known"))),
    el("dl", { class: "pairs" },
      pair("Rule", [text(one.title), " ", el("code", {}, one.rule)]),
      pair("When", `${when(one.time)} UTC`),
      pair("Guest", text(guestName(one.guest))),
      pair("Process", processButton(one.process)),
      pair("Coverage", one.coverage ? text(one.coverage) : "not known: the file does not say whether all was seen"),
      pair("Rests on", one.rests_on.length
        ? el("ul", { class: "rows" }, one.rests_on.map((row) => el("li", {}, el("code", {}, `${row.table} ${row.id}`), " ", row.text ? text(row.text) : "(not in this file)")))
        : "not told")));
}

function pair(name, ...value) {
  return [el("dt", {}, name), el("dd", {}, value)];
}

function rulesFold() {
  const quiet = REPORT.rules.filter((one) => one.state !== "fired");
  if (!quiet.length) return el("p", { class: "note" }, REPORT.rules.length ? "Every rule fired." : "What became of rules without findings is not known.");
  const unknown = quiet.filter((one) => one.state !== "clean").length;
  const words = { clean: "no finding", "not known": "not known", "not evaluated": "not evaluated" };
  return fold(`Rules without findings: ${number(quiet.length)}, of them ${number(unknown)} not known or not evaluated`, () => table(
    "Rules without findings", [
      { title: "Rule", get: (row) => row.rule },
      { title: "Level", get: (row) => row.level },
      { title: "What became of it", get: (row) => words[row.state] || row.state,
        show: (row) => el("span", { class: `seen ${row.state === "clean" ? "good" : row.state === "not known" ? "warn" : "unknown"}` }, words[row.state] || row.state) },
      { title: "Sessions", get: (row) => row.sessions, number: true },
      { title: "Why", get: (row) => row.reason, kind: "wide" },
    ], quiet));
}
