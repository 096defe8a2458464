"""Tables, progress and page on the figures of a made-up but realistic run."""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import threading
import time
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agent import report
from agent.report import terminal
from agent.report.html import page, write_report
from agent.report.plain import json_for_html
from memory.records import Generation, Score

FAMILIES = [
    "chain_sum",
    "basic_arithmetic",
    "products",
    "count_bits",
    "letter_counting",
    "spell_backward",
    "gcd",
    "word_sequence_reversal",
]


def score(mean: float, n: int = 160) -> Score:
    half = 1.96 * math.sqrt(max(mean * (1 - mean), 0.01) / n)
    return Score(mean=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=n)


def generations() -> list[Generation]:
    start = Generation(
        n=0,
        parent=0,
        weights="base",
        memory="",
        decision="start",
        cell="incumbent",
        reason="the agent before any evolution",
        cells={"incumbent": score(0.01)},
        families=dict.fromkeys(FAMILIES, 0.01),
        objective=dict.fromkeys(FAMILIES, 0.125),
        tokens={"evaluate": 21_000},
        seconds={"evaluate": 61.0},
    )
    promoted = Generation(
        n=1,
        parent=0,
        weights="w1",
        memory="m1",
        decision="promoted",
        cell="both",
        reason="both beats the incumbent: 61 wins, 0 losses, e = 9.9e11 ≥ 20 [retention held]",
        cells={
            "incumbent": score(0.02),
            "memory": score(0.15),
            "weights": score(0.33),
            "both": score(0.39),
        },
        families=dict.fromkeys(FAMILIES, 0.39),
        objective=dict.fromkeys(FAMILIES, 0.125),
        tokens={"acquire": 48_211, "update": 36_000, "evaluate": 61_000},
        seconds={"acquire": 121.0, "refine": 0.4, "update": 88.0, "evaluate": 64.0},
        details={"wins": 61, "losses": 0, "e_value": 9.9e11, "retention": {"before": 1.0}},
    )
    kept = Generation(
        n=2,
        parent=1,
        weights="w1",
        memory="m1",
        decision="kept",
        cell="incumbent",
        reason="no weights were made: the training data was empty",
        cells={"incumbent": score(0.41), "memory": score(0.44)},
        tokens={"acquire": 50_000, "evaluate": 30_000},
        seconds={"acquire": 125.0, "evaluate": 31.0},
    )
    return [start, promoted, kept]


def summary() -> dict[str, Any]:
    test = {
        name: score(mean, 200).model_dump()
        for name, mean in {"both": 0.42, "base": 0.01, "weights": 0.36}.items()
    }
    test["memory"] = score(0.17, 200).model_dump()
    test["best_of_n"] = {**score(0.09, 200).model_dump(), "samples": 12, "tokens": 90_123}
    return {
        "run": "quickstart",
        "model": "SmolLM2-135M-Instruct",
        "suite": "reasoning-gym",
        "machine": "2 cores",
        "date": "2026-11-05",
        "config": {"generations": 2, "lora": {"r": 16}},
        "test": test,
        "differences": {"both": {"mean": 0.41, "low": 0.34, "high": 0.48, "n": 200}},
        "families": {
            f: {"base": 0.0, "memory": i / 20, "weights": i / 10, "both": i / 8}
            for i, f in enumerate(FAMILIES)
        },
        "tokens": {"total": 812_345, "acquire": 98_211},
        "seconds": 1104.2,
    }


GROWTH: list[dict[str, Any]] = [
    {"generation": 0, "items": {}},
    {"generation": 1, "items": {"exemplar": {"active": 31}, "reflection": {"active": 9}}},
    {"generation": 2, "items": {"exemplar": {"active": 40, "absorbed": 12, "retired": 3}}},
]


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


# Numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3720, "1 h 02 min"),
    ],
)
def test_write_seconds(seconds: float, text: str) -> None:
    assert report.write_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (950, "950"), (999.7, "1k"), (12_345, "12.3k"), (4_560_000, "4.56M")],
)
def test_write_count(count: float, text: str) -> None:
    assert report.write_count(count) == text


def test_write_number() -> None:
    assert report.write_number(-0.001) == "0.00"
    assert report.write_number(0.004, signed=True) == "0.00"
    assert report.write_number(0.41, signed=True) == "+0.41"
    assert report.write_number(-0.41, signed=True) == "−0.41"


def test_rate_of_takes_what_is_there() -> None:
    assert report.rate_of(score(0.5)) == report.Rate(*score(0.5).model_dump().values())
    assert report.rate_of({"mean": 0.5, "low": 0.4}) == report.Rate(0.5)
    assert report.rate_of(0.25) == report.Rate(0.25)
    for nothing in (None, "x", True, {}, {"mean": None}, float("nan")):
        assert report.rate_of(nothing) is None


def test_arms_and_totals() -> None:
    assert report.arms_in_order(["mine", "both", "base"]) == ["base", "both", "mine"]
    assert report.arm_label("best_of_n", {"samples": 12}) == "best of 12"
    assert report.arm_label("best_of_n") == "best of n"
    assert report.arm_label("my_arm") == "my arm"
    assert report.total_of({"total": 5, "acquire": 3}) == 5
    assert report.total_of({"acquire": 3, "update": 1.5}) == 4.5
    assert report.total_of(7) == 7
    assert report.total_of(None) is None


def test_promoted_rate() -> None:
    start, promoted, kept = generations()
    rates = [report.promoted_rate(g) for g in (start, promoted, kept)]
    assert [r and r.mean for r in rates] == [0.01, 0.39, 0.41]
    assert report.promoted_rate(start.model_copy(update={"cells": {}})) is None


def test_phase_costs_follow_the_cycle() -> None:
    costs = report.phase_costs(generations())
    assert [c[0] for c in costs] == ["acquire", "refine", "update", "evaluate"]
    assert costs[0] == ("acquire", 98_211, 246.0)


# Terminal


def test_two_by_two() -> None:
    text = shown(terminal.two_by_two(generations()[1]))
    old, new = line_with(text, "memory old"), line_with(text, "memory new")
    assert "0.02" in old
    assert "0.33" in old
    assert "0.15" in new
    assert "● 0.39 [0.31, 0.47]" in new
    assert "promoted both" in text
    assert "[retention" in text, "brackets of a reason are text, not markup"
    assert "160 tasks" in text
    assert re.search(r"total\s+145k\s+4 min 33 s", text)
    assert max(map(len, text.splitlines())) <= 80


def test_two_by_two_says_what_was_not_tried() -> None:
    text = shown(terminal.two_by_two(generations()[2]))
    assert text.count("not tried") == 2
    assert "● 0.41" in line_with(text, "memory old")
    assert "kept: no weights were made" in text
    empty = Generation(
        n=0, parent=0, weights="base", memory="", decision="start", cell="incumbent", reason=""
    )
    assert shown(terminal.two_by_two(empty)).count("not tried") == 4


def test_test_table() -> None:
    text = shown(terminal.test_table(summary()))
    arms = ["base", "memory", "weights", "both", "best of 12"]
    places = [text.index(f"\n {arm} ") for arm in arms]
    assert places == sorted(places)
    assert "+0.41 [0.34, 0.48]" in line_with(text, " both ")
    assert "+0.35" in line_with(text, " weights ")
    assert "90.1k" in line_with(text, "best of 12")
    assert "200" in line_with(text, "[0.00, 0.02]")


def test_test_table_without_a_test() -> None:
    assert "arm" in shown(terminal.test_table({}))


def test_family_table_has_whole_names_in_80_columns() -> None:
    text = shown(terminal.family_table(summary()["families"]))
    for family in FAMILIES:
        assert family in text
    arms = ("base", "memory", "weights", "both", "best_of_n")
    longest = {"word_sequence_reversal": dict.fromkeys(arms, 1.0)}
    assert "…" not in shown(terminal.family_table(longest))
    assert "███ 1.00" not in line_with(text, "gcd")
    row = line_with(text, "word_sequence_reversal")
    assert row.count("█") == 1 + 2 + 2, "0.35, 0.70 and 0.88 of three blocks"
    assert shown(terminal.family_table({"a": {"base": 0.5}, "b": {}})).count("–") == 1


# Progress


def pipe() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out), out


def test_progress_in_a_pipe_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "EVERY", 0.02)
    console, out = pipe()
    with terminal.phase(console, "acquire [1]", 4) as meter:
        meter.advance(1, tokens=40, successes=1)
        meter.advance(1, tokens=40, successes=0)
        deadline = time.monotonic() + 60
        while "2/4" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
        meter.advance(2, tokens=80, successes=1)
    lines = out.getvalue().splitlines()
    halfway = next(line for line in lines if "2/4" in line)
    assert re.fullmatch(
        r"acquire \[1\] 2/4 · success 0\.50 · \S+ tok/s · [\d.]+ s left", halfway
    ), halfway
    assert re.fullmatch(r"acquire \[1\] 4/4 · success 0\.50 · \S+ tok/s · [\d.]+ s", lines[-1])
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out.getvalue())


def test_progress_without_total_or_grades() -> None:
    console, out = pipe()
    with terminal.phase(console, "train") as meter:
        meter.advance(3)
        assert meter.remaining is None
        assert meter.success is None
    assert re.fullmatch(r"train 3 · [\d.]+ s\n", out.getvalue())


def test_quiet_progress_prints_nothing() -> None:
    console, out = pipe()
    with terminal.phase(console, "acquire", 1, quiet=True) as meter:
        meter.advance(successes=1)
    assert out.getvalue() == ""
    assert meter.success == 1


def test_live_progress_on_a_terminal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with terminal.phase(console, "acquire", 4) as meter:
        meter.advance(4, tokens=10, successes=3)
    assert "\x1b[" in out.getvalue()
    assert "4/4 · success 0.75" in out.getvalue()


def test_progress_ends_with_the_error_that_ended_it() -> None:
    console, out = pipe()
    with (
        pytest.raises(RuntimeError, match="stop"),
        terminal.phase(console, "acquire", 2) as meter,
    ):
        meter.advance()
        raise RuntimeError("stop")
    assert out.getvalue().startswith("acquire 1/2")
    assert not [t for t in threading.enumerate() if t.name == "progress of acquire"]


def test_meter_counts_across_threads() -> None:
    meter = terminal.Meter("acquire", 4000)

    def work() -> None:
        for _ in range(1000):
            meter.advance(1, 2, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (meter.done, meter.tokens, meter.successes) == (4000, 8000, 4000)


# Page


class Reader(HTMLParser):
    """Checks that tags nest, and collects text, attributes and the embedded data."""

    VOID = frozenset({"meta", "link", "br", "hr", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.data = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data += data
        elif "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_tells_the_run() -> None:
    read = Reader(page(summary(), generations(), GROWTH))
    for heading in (
        "Learning curve",
        "Test split",
        "Families",
        "Generations",
        "Memory",
        "Families over generations",
        "Cost",
        "Configuration",
    ):
        assert heading in read.words
    assert "0.01 → 0.42" in read.text
    assert "1 of 2 generations promoted" in read.text
    assert "no weights were made: the training data was empty" in read.text
    assert "+0.41 [0.34, 0.48]" in read.text
    assert "812k" in read.text
    assert "18 min 24 s" in read.text
    assert "Unsafe" not in read.text
    for family in FAMILIES:
        assert family in read.text
    data = json.loads(read.data)
    assert data["summary"] == summary()
    assert [Generation.model_validate(g) for g in data["generations"]] == generations()
    assert data["growth"] == GROWTH


def test_page_charts_show_the_numbers() -> None:
    text = page(summary(), generations(), GROWTH)
    read = Reader(text)
    bars = {a["aria-label"] for a in read.named("svg") if a.get("role") == "img"}
    assert "both: 0.42 [0.35, 0.49], 200 tasks" in bars
    assert "gcd, weights: 0.60" in bars
    assert "exemplar items per generation; in the end 40 active, 12 absorbed, 3 retired" in bars
    assert 'width="42.00%"' in text
    assert "generation 1, memory: 0.15" in read.text
    assert sum(a.get("class") == "knot" for a in read.named("circle")) == 3 + 1  # and the legend
    outlined = [a for a in read.named("td") if a.get("class") == "on"]
    assert [a["style"] for a in outlined] == ["--v:0.010", "--v:0.390", "--v:0.410"]
    places = [v for _, a in read.tags for k in ("x", "y", "cx", "cy") if (v := a.get(k))]
    assert all(math.isfinite(float(v.rstrip("%"))) for v in places)


def test_page_stands_alone_and_runs_no_script() -> None:
    text = page(summary(), generations(), GROWTH)
    read = Reader(text)
    assert [a.get("type") for a in read.named("script")] == ["application/json"]
    assert all((a.get("href") or "").startswith("data:") for a in read.named("link"))
    assert not re.search(r"(?:src|href)=[\"'](?!data:)|url\(|@import", text)
    policy = next(a for a in read.named("meta") if a.get("http-equiv"))
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_page_is_accessible() -> None:
    read = Reader(page(summary(), generations(), GROWTH))
    assert read.named("html")[0]["lang"] == "en"
    assert len(read.named("h1")) == 1
    assert all(a.get("aria-label") for a in read.named("svg") if a.get("role") == "img")
    assert all(a.get("scope") in ("row", "col") for a in read.named("th"))


def test_hostile_text_stays_text() -> None:
    evil = "</script><script>alert('x')</script><b>&\u2028${title}$body"
    told = {**summary(), "run": evil, "model": evil, "config": {evil: evil}}
    told["families"] = {evil: {evil: 0.5}}
    told["test"] = {evil: {"mean": 0.5}}
    generation = generations()[1].model_copy(
        update={"reason": evil, "details": {evil: evil}, "tokens": {evil: 5}, "families": {evil: 1}}
    )
    growth = [{"generation": evil, "items": {evil: {evil: 3}}}]
    text = page(told, [generation], growth)
    read = Reader(text)
    assert len(read.named("script")) == 1
    assert "<script>alert" not in text
    assert "<b>&" not in text
    data = json.loads(read.data)["summary"]
    assert (data["run"], data["model"]) == (Path(evil).name, evil)
    assert evil.split("\u2028")[0] in "".join(read.words)


def test_a_page_does_not_say_where_its_folder_lies() -> None:
    text = page({**summary(), "run": "/somewhere/of/mine/quick"}, [], [])
    assert "quick" in Reader(text).words
    assert "of/mine" not in text


def test_json_for_html() -> None:
    value = {"a": [float("nan"), float("inf"), 1.5], "p": Path("x"), "s": "<&>", "r": score(0.5)}
    text = json_for_html(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == {
        "a": [None, None, 1.5],
        "p": "x",
        "s": "<&>",
        "r": score(0.5).model_dump(),
    }


def test_page_of_an_unfinished_and_of_an_empty_run() -> None:
    begun = {k: v for k, v in summary().items() if k not in ("test", "families")}
    read = Reader(page(begun, generations()[:1], GROWTH[:1]))
    assert "in progress" in read.text
    assert "Test split" not in read.words
    assert "Learning curve" in read.words
    empty = Reader(page({}, [], []))
    assert "in progress" in empty.text
    assert not empty.named("section")


@pytest.mark.parametrize(
    "broken",
    [
        {"test": None, "families": None, "config": None, "tokens": None, "seconds": None},
        {"test": {"base": None, "both": {"low": 0.1}}, "families": {"gcd": None}},
        {"test": {"base": {"mean": 0.5}}, "tokens": 5, "seconds": {"acquire": 1.5}},
        {"test": {"best_of_n": {"mean": 0.1, "samples": None}}, "tokens": {}, "differences": []},
    ],
)
def test_page_and_tables_tolerate_gaps(broken: dict[str, Any]) -> None:
    bare = [
        g.model_copy(update={"cells": {}, "tokens": {}, "seconds": {}, "families": {}})
        for g in generations()
    ]
    told = {**summary(), **broken}
    growth: list[dict[str, Any]] = [
        {},
        {"generation": 1, "items": None},
        {"items": {"exemplar": {"active": None}}},
    ]
    Reader(page(told, bare, growth))
    Reader(page(told, generations(), growth))
    shown(terminal.test_table(told))


def test_unsafe_banner() -> None:
    read = Reader(page({**summary(), "unsafe": True}, [], []))
    assert "Unsafe run." in read.words
    assert any(a.get("role") == "alert" for a in read.named("p"))


def test_write_report_replaces_in_one_step(tmp_path: Path) -> None:
    path = write_report(tmp_path, {"run": "one"}, [], [])
    before = path.stat().st_ino
    assert write_report(tmp_path, {"run": "two"}, [], []) == tmp_path / "report.html"
    assert "two" in path.read_text(encoding="utf-8")
    assert path.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_write_that_fails_leaves_the_old_page(tmp_path: Path) -> None:
    path = write_report(tmp_path, {"run": "one"}, [], [])
    with pytest.raises(AttributeError):
        write_report(tmp_path, {"run": "two"}, [None], [])  # type: ignore[list-item]
    assert "one" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "missing", {}, [], [])


# Contrast


def luminance(colour: tuple[float, ...]) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def palettes() -> dict[str, dict[str, tuple[float, ...]]]:
    css = (files("agent.report") / "template.html").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    assert len(blocks) == 3
    result = {}
    for name, block in zip(("light", "dark", "print"), blocks, strict=True):
        colours: dict[str, tuple[float, ...]] = {}
        for key, value in re.findall(r"--([\w]+): ([^;]+);", block):
            if value.startswith("#"):
                digits = value[1:] if len(value) == 7 else "".join(c * 2 for c in value[1:])
                colours[key] = tuple(int(digits[i : i + 2], 16) for i in (0, 2, 4))
            else:
                colours[key] = tuple(float(v) for v in value.split())
        result[name] = colours
    return result


@pytest.mark.parametrize("name", ["light", "dark", "print"])
def test_colours_can_be_read(name: str) -> None:
    """WCAG AA: 4.5 for text, 3 for marks, on every ground they stand on."""
    colours = palettes()[name]
    hottest = tuple(
        (a + b) / 2 for a, b in zip(colours["heat"], colours["track"], strict=True)
    )  # the heat's share is at most one half
    for ground in (colours["paper"], colours["card"]):
        for text in ("ink", "soft", "good", "mild", "bad"):
            assert contrast(colours[text], ground) >= 4.5, text
    assert contrast(colours["ink"], colours["track"]) >= 4.5
    assert contrast(colours["ink"], hottest) >= 4.5
    for mark in ("base", "memory", "weights", "both", "best_of_n", "other"):
        assert contrast(colours[mark], colours["card"]) >= 3, mark
