# SPDX-License-Identifier: GPL-2.0-or-later
"""The page as a real browser shows it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from guest.images import image
from sources.image_files import elf_core

from drakmet.cli import cli
from drakmet.store import Writer
from report.chromium import PROGRAM, Chromium
from report.files import DATA, EVIL, crowd, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from report.chromium import Page

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def run(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
    assert result.exception is None, result.exception


@pytest.fixture(scope="module")
def pages(watched: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a watch, a scan, an imported log, an empty file, hostile texts, and many things."""
    place = tmp_path_factory.mktemp("pages")
    shutil.copy(watched, place / "watch.db")
    core = place / "guest.core"
    core.write_bytes(elf_core(image("6.1").memory.pages))
    run("scan", f"image:{core}", "--db", place / "scan.db")
    log = DATA / "drakvuf-windows-93b2d184.log.gz"
    run("import", log, "--db", place / "import.db", "--no-rules", "--guest", "g", "--host", "h")
    Writer(place / "empty.db", []).close()
    hostile(place / "hostile.db")
    crowd(place / "crowd.db", processes=800, events=3000)
    for path in place.glob("*.db"):
        run("report", path)
    return {path.stem: path for path in place.glob("*.html")}


@pytest.fixture
def watch(browser: Chromium, pages: dict[str, Path]) -> Iterator[Page]:
    page = browser.open(pages["watch"])
    yield page
    assert page.complaints() == []
    page.close()


def shown(page: Page, what: str) -> list[str]:
    found: list[str] = page.run(f"[...document.querySelectorAll({what!r})].map((one) => one.textContent)")
    return found


def drawn(page: Page) -> dict[str, int]:
    """Return how much of each part is there."""
    parts = {"findings": ".finding", "processes": "#processes tbody tr:not(.faint)", "bars": "#timeline rect.bar",
             "edges": "path.edge", "connections": "#connections tbody tr", "coverage": "#coverage li.trap"}  # fmt: skip
    return {name: len(shown(page, selector)) for name, selector in parts.items()}


def type_words(page: Page, words: str) -> None:
    page.run(
        f"(() => {{ const box = document.getElementById('words'); box.focus(); box.value = {words!r};"
        " box.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    # The filter waits until the typing is over.
    page.run("new Promise((done) => { WATCHERS.push(() => setTimeout(done)); })")


@pytest.mark.parametrize("name", ["watch", "scan", "import", "empty", "hostile", "crowd"])
def test_each_kind_of_file_is_drawn_in_silence(browser: Chromium, pages: dict[str, Path], name: str) -> None:
    page = browser.open(pages[name])
    assert page.run("document.documentElement.dataset.drawn") == "yes"
    # Everything that can be opened is, so that all of it is drawn once.
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run("new Promise((done) => setTimeout(done))")
    page.run("document.querySelectorAll('th button').forEach((one) => one.click())")
    assert len(shown(page, "main > section")) == 8
    assert page.complaints() == []
    page.close()


def test_hostile_texts_do_nothing(browser: Chromium, pages: dict[str, Path]) -> None:
    page = browser.open(pages["hostile"])
    page.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.run("new Promise((done) => setTimeout(done))")
    # The filter of each guest and process is used once, as it handles their texts as well.
    page.run("[...document.querySelectorAll('button.link')].slice(0, 12).forEach((one) => one.click())")
    page.run("document.getElementById('clear').click()")
    assert page.run("document.scripts.length") == 2
    assert page.run("document.querySelectorAll('img, iframe, object, form[action], [onload], [onerror]').length") == 0
    assert page.run("[...document.links].every((one) => one.getAttribute('href').startsWith('#'))")
    assert any(EVIL[0] in text for text in shown(page, ".finding bdi"))
    steering = r"/[\u202a-\u202e\u2066-\u2069\u200e\u200f\u0000-\u0008\u001b]/"
    assert page.run(f"{steering}.test(document.body.innerText)") is False
    assert page.run("Object.prototype.toString.call({}.polluted)") == "[object Undefined]"
    assert page.complaints() == []
    page.close()


def test_inline_handlers_and_requests_are_forbidden(browser: Chromium, pages: dict[str, Path]) -> None:
    page = browser.open(pages["watch"])
    page.run(
        "(() => { const one = document.createElement('div'); one.setAttribute('onclick', 'window.ran = 1');"
        " document.body.append(one); one.click(); })()"
    )
    assert page.run("window.ran === undefined")
    assert page.run("fetch('http://127.0.0.1:9/').then(() => 'went', () => 'stayed')") == "stayed"
    assert any("Content Security Policy" in str(one) for one in page.complaints())
    page.close()


def test_the_filter_by_process_acts_on_all_parts(watch: Page) -> None:
    everything = drawn(watch)
    assert everything["findings"] == 30
    assert all(everything.values())
    type_words(watch, "curl")
    some = drawn(watch)
    assert 0 < some["findings"] < 30
    assert all("curl" in text for text in shown(watch, ".finding .what"))
    assert 0 < some["processes"] < everything["processes"]
    assert 0 < some["bars"] < everything["bars"]
    assert 0 < some["edges"] < everything["edges"]
    assert all(text.startswith("curl") for text in shown(watch, "#connections tbody td:first-child"))
    type_words(watch, "nothing is named like this")
    none = drawn(watch)
    assert [none[part] for part in ("findings", "processes", "bars", "edges", "connections")] == [0] * 5
    watch.run("document.getElementById('clear').click()")
    assert drawn(watch) == everything


def test_a_process_is_chosen_with_what_it_started(watch: Page) -> None:
    has = "one.textContent.includes('bash /root/intrusion.sh')"
    row = f"[...document.querySelectorAll('#processes tr')].find((one) => {has})"
    watch.run(f"{row}.querySelector('button.link').click()")
    chosen = watch.run("chosen.size")
    assert 40 < chosen < watch.run("REPORT.processes.length")
    assert len(shown(watch, "#filters .chip")) == 1
    watch.run("document.querySelector('#filters .chip').click()")
    assert watch.run("chosen") is None


def test_the_filter_by_guest_acts_on_all_parts(browser: Chromium, pages: dict[str, Path]) -> None:
    page = browser.open(pages["hostile"])
    before = drawn(page)
    page.run(
        "(() => { const box = document.getElementById('guest'); box.value = String(REPORT.guests[2].id);"
        " box.dispatchEvent(new Event('change', { bubbles: true })); })()"
    )
    after = drawn(page)
    assert before["findings"] == before["processes"] == len(EVIL)
    assert [after[part] for part in ("findings", "processes", "connections", "coverage")] == [1, 1, 2, 1]
    assert page.complaints() == []
    page.close()


def test_the_timeline_is_zoomed_by_pulling_and_by_keys(watch: Page) -> None:
    told = "document.querySelector('#timeline svg').getAttribute('aria-label')"
    whole = watch.run(told)
    watch.run("document.querySelector('#timeline .plot').scrollIntoView({ behavior: 'instant', block: 'start' })")
    box = watch.run("document.querySelector('#timeline svg').getBoundingClientRect().toJSON()")
    for kind, share in (("mousePressed", 0.4), ("mouseMoved", 0.5), ("mouseReleased", 0.6)):
        watch.call(
            "Input.dispatchMouseEvent", type=kind, x=box["x"] + box["width"] * share, y=box["y"] + 90, button="left",
            clickCount=1,
        )  # fmt: skip
    pulled = watch.run(told)
    watch.run("document.querySelector('#timeline svg').dispatchEvent(new KeyboardEvent('keydown', { key: '+' }))")
    closer = watch.run(told)
    assert len({whole, pulled, closer}) == 3
    watch.run("document.querySelector('#timeline svg').dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
    assert watch.run(told) == whole


def test_the_tree_is_walked_by_keys(watch: Page) -> None:
    watch.run("document.querySelector('#processes tbody button.link').focus()")
    for kind in ("keyDown", "keyUp"):
        watch.call("Input.dispatchKeyEvent", type=kind, key="ArrowDown", code="ArrowDown", windowsVirtualKeyCode=40)
    rows = "[...document.querySelectorAll('#processes tbody tr')]"
    assert watch.run(f"{rows}.indexOf(document.activeElement.closest('tr'))") == 1


def test_everything_that_can_be_used_has_a_name(watch: Page) -> None:
    watch.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    nodes: list[dict[str, Any]] = watch.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "searchbox", "combobox", "image", "img", "region", "treegrid"}
    used = [node for node in nodes if not node.get("ignored") and node["role"]["value"] in roles]
    assert len(used) > 100
    assert [node for node in used if not str(node.get("name", {}).get("value", "")).strip()] == []


def test_dark_and_light(watch: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light = watch.run(paper)
    watch.run("document.getElementById('theme').click()")
    assert watch.run(paper) != light
    watch.run("document.getElementById('theme').click()")
    watch.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert watch.run(paper) == light  # what was chosen by hand stays


def test_nothing_is_wider_than_a_small_screen(browser: Chromium, pages: dict[str, Path]) -> None:
    page = browser.open(pages["watch"])
    page.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=2, mobile=True)
    assert page.run("document.documentElement.scrollWidth") <= 390
    page.close()
