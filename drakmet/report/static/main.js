// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the parts together, and the filter above them.

function drawFilters(form) {
  const guest = el("select", { id: "guest", change: (event) => setFilter({ guest: event.target.value ? Number(event.target.value) : null }) },
    el("option", { value: "" }, REPORT.guests.length > 1 ? `All ${number(REPORT.guests.length)} guests` : "All guests"),
    REPORT.guests.map((one) => el("option", { value: one.id }, one.name)));
  let waiting = null;
  const words = el("input", { id: "words", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "name, argument or pid",
    input: () => { clearTimeout(waiting); waiting = setTimeout(() => setFilter({ words: words.value.trim() }), 120); } });
  const one = el("span", { class: "picked" });
  const reset = button("Clear", () => { clearTimeout(waiting); words.value = ""; guest.value = ""; setFilter({ guest: null, words: "", process: null }); }, { id: "clear" });
  form.addEventListener("submit", (event) => event.preventDefault());
  put(form, el("label", { for: "guest" }, "Guest"), guest, el("label", { for: "words" }, "Process"), words, one, reset);
  onFilter(() => {
    guest.value = FILTER.guest === null ? "" : String(FILTER.guest);
    if (document.activeElement !== words) words.value = FILTER.words;
    put(one, FILTER.process !== null && button([text(lastName(BY_ID.get(FILTER.process).program)), ` ${BY_ID.get(FILTER.process).pid ?? ""} and below ×`],
      () => setFilter({ process: null }), { class: "chip", "aria-label": "Show all processes again" }));
    reset.disabled = !filtering();
  });
  reset.disabled = true;
}

function aboutPart() {
  const rows = Object.entries(REPORT.totals).map(([name, rows_]) => ({ name, rows: rows_ }));
  return section("about", "About this report",
    REPORT.left_out.length > 0 && [el("p", {}, "The file holds more than a page can show:"), el("ul", { class: "left-out" }, REPORT.left_out.map((one) => el("li", {}, text(one))))],
    REPORT.quarantined > 0 && el("p", { class: "warn" }, `${count(REPORT.quarantined, "record")} could not be understood and are set aside in the file, with the reasons.`),
    el("p", {}, `Made by drakmet ${REPORT.drakmet} at ${when(REPORT.made)} UTC. The page needs no network and sends nothing. “Not known” and “–” mean that it could not be obtained, never that there is none.`),
    fold(`Tables of the file: ${number(rows.length)} with rows`, () => table("Tables", [{ title: "Table", get: (row) => row.name }, { title: "Rows", number: true, get: (row) => row.rows }], rows)));
}

function main() {
  const content = document.getElementById("content");
  drawHead(document.getElementById("head"));
  drawFilters(document.getElementById("filters"));
  const parts = [findingsPart(), timelinePart(), processesPart(), connectionsPart(), guestsPart(), applicationsPart(), coveragePart(), aboutPart()];
  put(content, parts);
  // These measure their place, which they have only now.
  for (const part of parts) part.draw?.();
  put(document.getElementById("contents"), el("ol", {}, parts.map((part) => el("li", {}, el("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)))));
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details.finding")) one.open = true; });
  document.documentElement.dataset.drawn = "yes";
}

main();
