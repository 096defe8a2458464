"""The inspector's pages in a real Chromium, offline: what is seen, and what keys and clicks do."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from memory.inspector import queries
from memory.inspector.export import export
from memory.inspector.follow import Followed
from memory.inspector.queries import Episodes, Items
from memory.ledger import Ledger
from memory.records import Generation
from tests.made_run import Made, write_run
from tests.memory.inspector_pages import Page, follow, open_chromium, served

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    "</script><svg/onload=window.hacked=1>{{7*7}}${7*7}"
)
LAST = 5


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    driver = open_chromium()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    """A made run, digested, whose texts are hostile here and there."""
    folder = tmp_path_factory.mktemp("run")
    ledger = write_run(folder, items=120, episodes=400, generations=LAST, hostile=HOSTILE)
    run = follow(ledger, folder, "made")
    run.catch_up()
    return run


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    folder = tmp_path_factory.mktemp("other")
    run = follow(write_run(folder, 40, 90, 3, seed=5), folder, "other")
    run.catch_up()
    return run


@pytest.fixture(scope="module")
def page(browser: webdriver.Chrome, run: Followed, other: Followed) -> Iterator[Page]:
    with served(run, other) as address:
        yield Page(browser, f"{address}/")


@pytest.fixture(scope="module")
def routes(run: Followed) -> dict[str, str]:
    """One route of every page."""
    item = queries.items(run.digest, Items(generation=LAST, sort="uses", kind="insight"))["rows"][
        0
    ]["id"]
    slot = queries.episodes(run.digest, Episodes(generation=str(LAST), outcome="error"))["rows"][0][
        "slot"
    ]
    return {
        "overview": "overview",
        "memory": "memory",
        "memory by kind": "memory?g=3&by=kind&colour=utility&family=gcd",
        "map": "map?colour=standing",
        "map by family": "map?colour=family",
        "item": f"item/{item}",
        "item by number": "item/8",
        "episodes": "episodes?outcome=error",
        "episode": f"episode/{quote(slot, safe='')}",
        "generations": "generations",
        "generation": f"generation/{LAST}",
        "generation 0": "generation/0",
        "kept generation": "generation/4",
        "compare": "compare",
        "other run": "b/overview",
        "other run's memory": "b/memory",
    }


NAMES = [
    "overview", "memory", "memory by kind", "map", "map by family", "item", "item by number",
    "episodes", "episode", "generations", "generation", "generation 0", "kept generation",
    "compare", "other run", "other run's memory",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_page_loads(page: Page, routes: dict[str, str], name: str) -> None:
    """Light and dark, on a desk and on a phone; nothing is wrong, nothing sticks out."""
    backgrounds = set()
    for width, height, dark in ((1280, 900, False), (1280, 900, True), (390, 844, False)):
        page.look(width, height, dark)
        page.go(routes[name])
        if "map" in name or "memory" in name:
            page.until("return document.querySelector('.mapbox').dataset.ready === 'yes'")
        assert page.complaints() == []
        assert page.wider_by() <= 0
        assert "It cannot be shown" not in page.text()
        assert page.run("return window.hacked") is None
        backgrounds.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        clipped = page.run(
            "return [...document.querySelectorAll('main h1, main h2, main h3, main p, main pre')]"
            ".filter(e => e.scrollWidth > e.clientWidth + 1 && !e.closest('.wide, details')"
            " && getComputedStyle(e).display !== 'inline').map(e => e.textContent.slice(0, 80))"
        )
        assert clipped == []
    assert len(backgrounds) == 2, "dark is dark"


def test_no_tab_is_cut_off(page: Page, routes: dict[str, str]) -> None:
    for width in (320, 360, 412):
        page.look(width, 700)
        page.go(routes["compare"])
        cut = "const nav = document.querySelector('nav'); return nav.scrollWidth - nav.clientWidth"
        assert page.run(cut) <= 0 and page.wider_by() <= 0


def test_each_part_of_an_items_life_is_told(page: Page, run: Followed) -> None:
    """What was only measured again ends no part of the bar, since no line tells of it."""
    with run.digest.open() as db:
        (id_,) = db.execute(
            "SELECT i.id FROM spans s JOIN items i ON i.no = s.item WHERE s.event = 'updated'"
        ).fetchone()
    page.go(f"item/{id_}")
    parts = page.all("svg[aria-label='standing over generations'] rect:has(title)")
    assert len(parts) == len(page.all(".drawn + .lines tr")) > 0


def test_scrubbing_changes_list_map_and_counts(page: Page, run: Followed) -> None:
    page.look(1280, 900)
    page.go("memory")

    def at(n: int) -> None:
        page.until(
            "return document.querySelector('#items').dataset.generation === arguments[0]", str(n)
        )
        total = queries.items(run.digest, Items(generation=n))["total"]
        assert page.text(".found").startswith(f"{total} item") or total == 0
        assert page.text(".scrub .at") == f"Generation {n}"
        rows = queries.items(run.digest, Items(generation=n))["rows"]
        shown = [e.get_attribute("href").rpartition("/")[2] for e in page.all("#items .rowlink")]
        assert shown == [row["id"] for row in rows]
        assert page.run("return document.querySelectorAll('.column.on').length") == 1

    at(LAST)
    page.until("return document.querySelector('.mapbox').dataset.ready === 'yes'")
    picture = "return document.querySelector('.mapbox canvas').toDataURL()"
    pictures = {page.run(picture)}
    page.press(Keys.ARROW_LEFT)
    at(LAST - 1)
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    at(LAST - 3)
    pictures.add(page.run(picture))
    page.press("l")
    at(LAST - 2)
    ActionChains(page.driver).click(page.all(".column")[1]).perform()
    at(1)
    pictures.add(page.run(picture))
    page.press(Keys.END)
    at(LAST)
    assert page.run(picture) in pictures, "the same generation, the same map"
    assert len(pictures) == 3
    page.press(Keys.HOME)
    at(0)
    assert "g=0" in page.driver.current_url
    page.press(" ")  # plays to the end
    at(LAST)


def test_a_link_leads_to_the_same_state(page: Page, run: Followed) -> None:
    page.go("memory?g=2&kind=exemplar&sort=utility")
    page.until("return document.querySelector('#items').dataset.generation === '2'")
    rows = queries.items(run.digest, Items(generation=2, kind="exemplar", sort="utility"))["rows"]
    hrefs = [e.get_attribute("href").rpartition("/")[2] for e in page.all("#items .rowlink")]
    assert hrefs == [row["id"] for row in rows]


def test_hovering_shows_a_text_and_a_click_opens_the_item(page: Page) -> None:
    page.look(1280, 900)
    for route in ("memory", "map"):
        page.go(route)
        page.until("return document.querySelector('.mapbox')?.dataset.ready === 'yes'")
        page.run("document.querySelector('.mapbox').scrollIntoView({block: 'center'})")
        x, y = page.point_at_an_item()
        said = page.text(".tip .said")
        canvas = page.all(".mapbox canvas")[0]
        middle = (x - canvas.size["width"] / 2, y - canvas.size["height"] / 2)
        ActionChains(page.driver).move_to_element_with_offset(
            canvas, round(middle[0]), round(middle[1])
        ).click().perform()
        page.until("return location.hash.startsWith('#/item/')")
        page.until("return document.querySelector('main pre.text') !== null")
        assert page.text("main pre.text").startswith(said.rstrip("…")[:300])
        assert page.complaints() == []


def test_filters_and_search(page: Page, run: Followed) -> None:
    page.look(1280, 900)
    page.go("episodes")
    page.press("/")
    page.press("juniper")
    total = queries.episodes(run.digest, Episodes(text="juniper"))["total"]
    page.until(f"return document.querySelector('.found').textContent.startsWith('{total} episode')")
    page.press(Keys.ESCAPE)
    page.run(
        "const s = document.querySelector('select[name=outcome]'); s.value = 'success';"
        "s.dispatchEvent(new Event('change'))"
    )
    total = queries.episodes(run.digest, Episodes(text="juniper", outcome="success"))["total"]
    page.until(f"return document.querySelector('.found').textContent.startsWith('{total} episode')")
    assert "text=juniper" in page.driver.current_url
    page.driver.refresh()  # the address holds it all
    page.until(
        f"return document.querySelector('.found')?.textContent.startsWith('{total} episode')"
    )


def test_keys(page: Page) -> None:
    page.look(1280, 900)
    page.go("episodes")
    page.press("j", "j", "j", "k")
    assert (
        page.run(
            "return [...document.querySelectorAll('.rowlink')].findIndex(e => e.matches('.at'))"
        )
        == 1
    )
    wanted = page.all(".rowlink.at")[0].get_attribute("href")
    page.press(Keys.ENTER)
    page.until("return document.querySelector('.talk') !== null")
    assert page.driver.current_url == wanted
    page.press("j")
    assert page.all(".turn.at")
    before = page.driver.current_url
    page.press(Keys.ARROW_RIGHT)
    page.until("return location.href !== arguments[0]", before)
    page.press("?")
    page.until("return document.querySelector('dialog[open]') !== null")
    page.press(Keys.ESCAPE)
    page.until("return document.querySelector('dialog') === null")
    page.press("1")
    page.until("return location.hash === '#/overview'")
    page.go("generation/2").press(Keys.ARROW_LEFT)
    page.until("return location.hash === '#/generation/1'")


def test_light_and_dark_by_key_and_for_good(page: Page) -> None:
    page.look(1280, 900, dark=True)
    page.go("map")
    page.until("return document.querySelector('.mapbox').dataset.ready === 'yes'")
    background = "return getComputedStyle(document.body).backgroundColor"
    dark, picture = (
        page.run(background),
        page.run("return document.querySelector('canvas').toDataURL()"),
    )
    page.press("t")
    assert page.run(background) != dark
    page.until("return document.querySelector('canvas').toDataURL() !== arguments[0]", picture)
    page.go("overview")
    assert page.run(background) != dark, "it is remembered"
    page.press("t")
    assert page.run(background) == dark
    page.run("localStorage.clear()")


def test_an_account_leads_to_its_episodes(page: Page, run: Followed) -> None:
    page.look(1280, 900)
    page.go("generation/2")
    assert "What was learnt and lost" in page.text()
    (first, second) = page.all("main li a.mono")
    assert second.text.startswith("2/")
    slot = first.text
    first.click()
    page.until("return document.querySelector('.talk') !== null")
    assert page.run("return location.hash") == f"#/episode/{quote(slot, safe='')}"
    assert page.complaints() == []


def test_hostile_texts_are_texts(page: Page, run: Followed) -> None:
    """In lists, on item, episode and generation pages, in diffs and on the map."""
    page.look(1280, 900)
    found = queries.items(run.digest, Items(generation=LAST, text="<script>"))["rows"]
    assert found
    slot = queries.episodes(run.digest, Episodes(text="<script>", outcome="error"))["rows"][0][
        "slot"
    ]
    seen = 0
    for route in (
        "memory?text=%3Cscript", f"item/{found[0]['id']}", f"item/{found[-1]['id']}",
        f"episode/{quote(slot, safe='')}", "episodes?text=onerror",
        f"generation/{found[0]['born']}",
    ):  # fmt: skip
        page.go(route)
        if route.startswith("memory"):
            page.until("return document.querySelectorAll('#items .rowlink').length > 0")
            page.point_at_an_item()
        assert HOSTILE[:40] in page.text(), route
        seen += page.text().count("onerror=")
        assert page.run("return document.querySelectorAll('main img, main script').length") == 0
        assert page.run("return window.hacked") is None
        assert page.complaints() == []
    assert seen > 10


def test_the_policy_would_stop_a_script_in_the_page(page: Page) -> None:
    """The second wall behind text nodes."""
    page.go("overview")
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 2';"
        "document.body.append(s);"
        "const d = document.createElement('div'); d.setAttribute('onclick', 'window.hacked = 2');"
        "document.body.append(d); d.click();"
    )
    assert page.run("return window.hacked") is None
    assert page.complaints()


def test_it_is_live(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Generations, episodes and items that are written while pages are open appear there."""
    path = write_run(tmp_path, items=20, episodes=60, generations=2, seed=2)
    with served(follow(path, tmp_path)) as address, Ledger(path) as ledger:
        page = Page(browser, f"{address}/")
        page.go("overview")
        page.until("return document.querySelectorAll('main a.mark').length === 3")
        page.until("return document.querySelector('.live.on') !== null")

        made = Made(random.Random(7), 9, 10, "")
        made.items, made.episodes = 20, 60
        made.memory = ledger.last(Generation)[1].memory
        made.write(ledger, 3, items=9, episodes=12)
        page.until("return document.querySelectorAll('main a.mark').length === 4")
        assert page.complaints() == []

        page.go("memory")
        page.until("return document.querySelector('.scrub .at').textContent === 'Generation 3'")
        page.until("return document.querySelector('.mapbox').dataset.ready === 'yes'")
        made.write(ledger, 5, items=6, episodes=6)
        page.until("return document.querySelector('.scrub .at').textContent === 'Generation 5'")
        page.until("return document.querySelector('#items').dataset.generation === '5'")

        page.press(Keys.ARROW_LEFT)  # whoever looks at the past stays there
        page.until("return document.querySelector('#items').dataset.generation === '3'")
        made.write(ledger, 6, items=3, episodes=3)
        page.until("return document.querySelectorAll('.column').length === 6")
        assert page.text(".scrub .at") == "Generation 3"

        page.go("episodes")
        page.until("return document.querySelector('.found').textContent.startsWith('81 ')")
        made.write(ledger, 7, items=0, episodes=4)
        page.until("return document.querySelector('.found').textContent.startsWith('85 ')")
        assert page.complaints() == []


def test_a_server_that_ends_is_said(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with served(follow(write_run(tmp_path, 5, 9, 1), tmp_path)) as address:
        page = Page(browser, f"{address}/").go("overview")
    page.until("return document.querySelector('.live.off') !== null")
    assert "no server" in page.text("#top")


@pytest.mark.parametrize("generations", [None, 0])
def test_a_run_that_has_only_begun(
    browser: webdriver.Chrome, tmp_path: Path, generations: int | None
) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        if generations is not None:
            Made(random.Random(0), 1, 10, "").write(ledger, 0, items=0, episodes=0)
    with served(follow(path, tmp_path)) as address:
        page = Page(browser, f"{address}/")
        for width in (1280, 390):
            page.look(width, 844)
            for route in ("overview", "memory", "map", "episodes", "generations", "compare"):
                page.go(route)
                assert page.complaints() == []
                assert page.wider_by() <= 0
                if not (generations == 0 and route == "generations"):
                    assert page.all("main .empty"), route
                if route in ("memory", "map"):  # a run may be without memory for good
                    assert "update_memory.enabled=false" in page.text()
        page.go("item/ffff")
        assert "Nothing of this name" in page.text()


def test_exported_pages_work_from_a_file(
    browser: webdriver.Chrome,
    run: Followed,
    other: Followed,
    routes: dict[str, str],
    tmp_path: Path,
) -> None:
    assert export([run, other], tmp_path / "site") == []
    page = Page(browser, (tmp_path / "site" / "index.html").as_uri())
    for width in (1280, 390):
        page.look(width, 844)
        for name, route in routes.items():
            page.go(route)
            assert page.complaints() == [], name
            assert page.wider_by() <= 0, name
            assert "It cannot be shown" not in page.text(), name
            assert page.run("return window.hacked") is None
    page.look(1280, 900)
    page.go("memory")
    page.press(Keys.ARROW_LEFT)
    page.until(f"return document.querySelector('#items').dataset.generation === '{LAST - 1}'")
    page.point_at_an_item()
    for options in (
        {"kind": "exemplar", "sort": "utility"},
        {"text": "<script>"},
        {"standing": "retired"},
    ):
        page.go("memory?g=3&" + "&".join(f"{k}={quote(v)}" for k, v in options.items()))
        page.until("return document.querySelector('#items').dataset.generation === '3'")
        wanted = queries.items(run.digest, Items(generation=3, **options))
        hrefs = [e.get_attribute("href").rpartition("/")[2] for e in page.all("#items .rowlink")]
        assert hrefs == [row["id"] for row in wanted["rows"]]
        assert page.text(".found").startswith(str(wanted["total"]))
    page.go("episodes?outcome=wrong&family=gcd&sort=oldest")
    wanted = queries.episodes(run.digest, Episodes(outcome="wrong", family="gcd", sort="oldest"))
    assert page.text(".found").startswith(str(wanted["total"]))
    assert len(page.all("#episodes .rowlink")) == min(50, wanted["total"])


def test_an_export_says_what_it_left_out(
    browser: webdriver.Chrome, run: Followed, tmp_path: Path
) -> None:
    target = tmp_path / "small.html"
    missing = export([run], target, most_items=20, most_episodes=30)
    assert re.search(r"370 of 400 episodes", " ".join(missing))
    page = Page(browser, target.as_uri()).go("overview")
    assert "370 of 400 episodes" in page.text("#left-out")
    page.go("episodes")
    assert page.text(".found").startswith("30 episodes")


def test_an_item_without_its_text_is_still_told_of(
    browser: webdriver.Chrome, tmp_path: Path, make_item
) -> None:
    """As after an erasure, or where only another item names it."""
    ghost = "0123456789abcdef"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        child = make_item("what came of it", made="revised", parents=(ghost,))
        ledger.append(child.id, child)
    with served(follow(ledger.path, tmp_path)) as address:
        page = Page(browser, f"{address}/").go(f"item/{ghost}")
        assert "What it said was erased" in page.text()
        page.go(f"item/{child.id}")
        assert "its text was erased" in page.text()
        assert page.complaints() == []
