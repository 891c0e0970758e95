"""`report --html`: a page that is well formed, complete in itself, and shows user's words as words."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from test_report import edit, write_run

from mpisqueeze.analysis.ranking import rank_runs
from mpisqueeze.cli.app import run
from mpisqueeze.record.reading import RunLog, folderless, read_run
from mpisqueeze.report.html.blocks import Chapter, Page, Table, TableCell
from mpisqueeze.report.html.figures import vega
from mpisqueeze.report.html.page import render
from mpisqueeze.report.html.run_page import runs_page
from mpisqueeze.report.palette import DARK_GROUND, LIGHT_GROUND, LINES

NASTY = """<script>alert("1")</script> & 'x' \x00\x1b[31m\udcff"""
VOID = {"meta", "link", "br", "wbr"}


pytestmark = pytest.mark.usefixtures("empty_folder")


class Strict(HTMLParser):
    """Fails where an element is not closed, an attribute or an id comes twice, or something outside is referred to."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        assert "style" not in names, "the page's policy forbids it"
        assert not any(name.startswith("on") for name in names)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "clip-path", "aria-labelledby"):
                self.targets.append(value or "")
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def parsed(html: str) -> Strict:
    """The page, held to all that a page has to keep."""
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    page = Strict()
    page.feed(html)
    page.close()
    assert not page.open
    assert len(set(page.ids)) == len(page.ids)
    for target in page.targets:
        if target == "data:,":
            continue
        match = re.fullmatch(r"#(.+)|url\(#(.+)\)|([\w -]+)", target)
        assert match, target
        for name in next(group for group in match.groups() if group).split():
            assert name in page.ids, target
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert not re.search(r"@import|url\((?!#)|@font-face", html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        ET.fromstring(svg)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    (style,) = re.findall("<style>(.*?)</style>", html, re.S)
    scripts = re.findall("<script>(.*?)</script>", html, re.S)
    if figures_of(html):
        (packed,) = re.findall('<script type="application/gzip" id="vega">(.*?)</script>', html)
        scripts.append(gzip.decompress(base64.b64decode(packed)).decode())
    assert f"style-src {digest(style)}; script-src {' '.join(map(digest, scripts))}" in policy[1].replace("&#39;", "'")
    return page


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def figures_of(html: str) -> list[tuple[str, dict[str, Any]]]:
    """(picture, specification) of each figure."""
    pictures = re.findall('<div class="still".*?(<svg.*?</svg>)</div>', html, re.S)
    specs = [json.loads(text) for text in re.findall('<script type="application/json">(.*?)</script>', html, re.S)]
    return list(zip(pictures, specs, strict=True))


def values_of(spec: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The rows of a data set."""
    return next(data["values"] for data in spec["data"] if data["name"] == name)


def page_of(*arguments: str) -> tuple[Strict, str]:
    assert run(["report", *arguments, "--html", "page.html"]) == 0
    html = Path("page.html").read_text()
    return parsed(html), html


def test_a_comparison_says_who_wins_and_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [10.0, 8, 6, 5, 4, 3, 2, 2, 1, 0.5])
    write_run(Path("b"), [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1], algorithm="doublesqueeze", compressor="onebit", nbytes=9)
    page, html = page_of("a", "b", "--target-loss", "4")
    text = " ".join(" ".join(page.text).split())
    assert "Fewest bytes to loss 4.00 63 B" in text
    assert "Least time to loss 4.00 2.50 s" in text
    assert "doublesqueeze/ onebit" in text
    assert "Time of an iteration by bandwidth" in text
    assert "modelled, not measured, for messages of 50.0 µs latency (assumed)" in text
    for title in ("Training loss by iteration", "Training loss by bytes", "Training loss by time",
                  "Where an iteration's time goes", "Settings", "Environment", "node1", "OMP_NUM_THREADS=1",
                  "2026-01-02 03:04:05 UTC"):  # fmt: skip
        assert title in text, title
    assert "12345" in text, "a seed is no count"
    # None of the single evaluations.
    assert len(figures_of(html)) == 5
    assert page.tags.count("h1") == 1
    assert "×" in capsys.readouterr().out, "the terminal's table is shown all the same"


def test_lines_end_in_the_order_of_their_names() -> None:
    write_run(Path("a"), [10.0, 1.0, 2.0])
    write_run(Path("b"), [10.0, 5.0, 5.0], algorithm="csgd")
    write_run(Path("c"), [10.0, 99.0, None], algorithm="memsgd", status="diverged")
    _, html = page_of("a", "b", "c")
    picture, spec = figures_of(html)[0]
    names = [row["wide"] for row in values_of(spec, "ends")]
    assert names == [["memsgd (diverged)"], ["csgd"], ["sgd"]]
    heights = [row["beside"] for row in values_of(spec, "ends")]
    assert (np.diff(heights) >= 17).all()
    for (name,) in names:
        assert f">{name}</text>" in picture


def test_users_words_stay_words() -> None:
    path = write_run(Path("a"), [3.0, 2.0, 1.0], status="failed")
    edit(path / "config.json", compressor=NASTY, data=NASTY, **{NASTY: NASTY})
    edit(path / "summary.json", reason=NASTY, warnings=[NASTY], problem=NASTY, run_folder=NASTY)
    evaluation = json.dumps({"iteration": 0, "epoch": 0.0, NASTY: 1.0}) + "\n"
    (path / "evaluations.jsonl").write_text(evaluation + evaluation.replace('"iteration": 0', '"iteration": 3'))
    words: dict[str, Any] = dict.fromkeys(("command_line", "git_commit", "mpi_library"), NASTY)
    edit(path / "environment.json", **words, variables={NASTY: NASTY}, hosts=[{"hostname": NASTY, "ranks": 2}])
    for others in ([], [str(write_run(Path("b"), [2.0, 1.0]))]):
        page, html = page_of("a", *others)
        assert page.tags.count("script") == 2 + len(figures_of(html))
        assert "<script>alert" not in html.lower()
        assert '<script>alert("1")' in "".join(page.text)
        assert "\x00" not in html
        assert "\x1b" not in html


@pytest.mark.parametrize("kind", ["one", "none", "unmeasured", "killed", "diverged", "failed"])
def test_every_end_of_a_run_has_its_page(kind: str) -> None:
    statuses = {"diverged": "diverged", "failed": "failed", "killed": None}
    losses: dict[str, list[float | None]] = {"one": [1.0], "none": [], "failed": [], "diverged": [1.0, 1e38, None]}
    path = write_run(Path("a"), losses.get(kind, [3.0, 2.0, 1.0]), status=statuses.get(kind, "ok"), planned=5)
    if kind == "unmeasured":
        (path / "evaluations.jsonl").unlink()
    if kind == "killed":
        log = path / "iterations.jsonl"
        log.write_text(log.read_text()[:-20])
    page, _ = page_of("a")
    text = " ".join(page.text)
    assert ("Training loss by iteration" in text) is (kind not in ("one", "none", "failed"))
    said = {
        "killed": "No end recorded after 2 of 5 iterations",
        "diverged": "Diverged after 3 of 5 iterations: on purpose",
        "failed": "Failed after 0 of 5",
        "one": "It takes two iterations",
        "none": "No run has an iteration",
    }
    assert said.get(kind, "sgd") in text
    # And beside one that ended well.
    write_run(Path("b"), [3.0, 2.0, 1.0], algorithm="csgd")
    page, _ = page_of("b", "a")
    assert ("1 " + {"killed": "no end recorded"}.get(kind, kind) in " ".join(page.text)) is (kind in statuses)


def test_runs_without_a_folder_are_in_the_table() -> None:
    done = read_run(write_run(Path("a"), [2.0, 1.0]))
    skipped = folderless("dpsgd", {**done.summary, "status": "skipped", "iterations": 0, "reason": None,
                                   "times": {name: {"median": None, "p99": None, "total": 0.0}
                                             for name in done.summary["times"]}})  # fmt: skip
    runs = [done, skipped]
    page = parsed(render(runs_page(runs, rank_runs(runs))))
    assert "skipped" in page.text


def long_run(name: str, count: int, seed: int) -> RunLog:
    """A noisy run of many iterations, in memory."""
    base = read_run(write_run(Path(name), [2.0, 1.0]))
    noise = np.random.default_rng(seed)
    columns = {key: np.full(count, float(column[0])) for key, column in base.columns.items()}
    columns["loss"] = 3 / np.arange(1, count + 1) ** 0.3 * np.exp(noise.normal(size=count))
    columns["iteration_s"] = noise.exponential(size=count)
    summary = {**base.summary, "iterations": count}
    return replace(base, name=name, columns=columns, summary=summary, planned=count, per_epoch=10)


def test_long_logs_make_a_short_page_that_loses_no_spike() -> None:
    runs = [long_run(f"run{seed}", 300_000, seed) for seed in range(8)]
    runs[3].columns["loss"][123_456] = 1e6
    html = render(runs_page(runs, rank_runs(runs)))
    assert len(html.encode()) < 1_500_000
    lines = values_of(figures_of(html)[0][1], "line")
    # The mean over ten iterations of a million is far above all else.
    assert max(lines[3]["y"]) > 10 * max(lines[4]["y"])
    assert all(len(line["x"]) == len(line["y"]) < 2000 for line in lines)
    single = render(runs_page(runs[:1], rank_runs(runs[:1])))
    assert len(single.encode()) < 900_000


@pytest.mark.parametrize("here", [True, False])
def test_mpi_is_loaded_for_the_model_but_neither_needed_nor_started(here: bool) -> None:
    write_run(Path("a"), [2.0, 1.0])
    code = (
        f"import sys; sys.modules.update({{}} if {here} else {{'mpi4py.MPI': None}});"
        "from mpisqueeze.cli.app import run; assert run('report a --html page.html --plot terminal'.split()) == 0;"
        "mpi = sys.modules['mpi4py.MPI']; print(bool(mpi and mpi.Is_initialized()), 'altair' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.splitlines()[-1] == "False False"
    text = " ".join(parsed(Path("page.html").read_text()).text)
    assert "by bandwidth" in text


def test_vega_is_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script, packed = vega()
    assert gzip.decompress(base64.b64decode(packed)).decode() == script
    (kept,) = (tmp_path / "mpisqueeze").iterdir()
    bundled = []
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda *_, **__: bundled.append(script) or script)
    assert vega() == (script, packed)
    assert not bundled
    for damaged in (b"", b"x", kept.read_bytes()[:1000]):
        kept.write_bytes(damaged)
        assert vega() == (script, packed)
        assert gzip.decompress(kept.read_bytes()).decode() == script
    # Where nothing can be kept.
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))
    assert vega() == (script, packed)
    assert len(bundled) == 4


def test_the_page_can_take_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("a"), [2.0, 1.0])
    assert run(["report", "a", "--html", "-"]) == 0
    out, err = capsys.readouterr()
    parsed(out)
    assert "bytes handed to MPI" in err
    assert run(["report", "a", "--html", "-", "--json", "-"]) == 2
    assert run(["report", "a", "--html", "no/such/folder/page.html"]) == 2


def reproduction(path: Path) -> Path:
    """What `reproduce` leaves of a claim with a plot of losses, one with a sweep, and one that was not tested."""
    about = {"source": "a talk", "note": NASTY, "reason": None, "seconds": 2.0, "sweep": None}
    decision = {"text": "it <holds>", "holds": "a.loss < b.loss", "found": "1 < 2", "passed": True}
    rows = []
    for number, (name, status, seed) in enumerate([("a", "ok", 1), ("b", "diverged", 1), ("a", "ok", 2)]):
        folder = f"{number:03}-{name}"
        losses: list[float | None] = [4.0, 2.0 + seed, 1.0] if status == "ok" else [4.0, 1e30]
        write_run(path / "losses" / folder, losses, status=status)
        rows.append({
            "run": name, "point": None, "x": 0.0, "seed": seed, "algorithm": "sgd", "compressor": "identity",
            "status": status, "run_folder": f"elsewhere/{path.name}/losses/{folder}", "loss": 1.0, "bytes": 100,
        })  # fmt: skip
    swept = [
        {**rows[0], "point": f"n={n}", "x": float(n), "seed": seed, "run_folder": None, "epoch_s": n / 4 + seed / 100}
        for n in (2, 3, 4) for seed in (1, 2, 3)
    ]  # fmt: skip
    loss_figure = {"kind": "loss", "y": "loss", "label": "training loss, smoothed"}
    sweep_figure = {"kind": "sweep", "y": "epoch_s", "label": "time of an epoch (s)"}
    claims = [
        {**about, "claim": "losses", "title": "One", "says": NASTY, "figure": loss_figure, "verdict": "PASS",
         "decisions": [decision], "runs": rows},
        {**about, "claim": "swept", "title": "Two", "says": "x", "figure": sweep_figure, "verdict": "FAIL",
         "decisions": [decision, {**decision, "passed": False, "found": "2 < 1"}], "runs": swept, "sweep": "ranks"},
        {**about, "claim": "late", "title": "Three", "says": "y", "figure": loss_figure, "verdict": "SKIPPED",
         "reason": "needs 6 ranks", "decisions": [{**decision, "passed": None, "found": None}], "runs": []},
    ]  # fmt: skip
    whole = {"schema_version": 1, "status": "done", "scale": "laptop", "ranks": 4, "claims": claims}
    (path / "claims.json").write_text(json.dumps(whole))
    return path


def test_a_reproduction_has_its_page(capsys: pytest.CaptureFixture[str]) -> None:
    reproduction(Path("rep"))
    page, html = page_of("rep", "--json", "verdicts.json")
    text = " ".join(" ".join(page.text).split())
    sentence = "1 of 3 claims hold, 1 does not, 1 could not be tested here."
    assert sentence in text
    assert sentence in capsys.readouterr().out
    assert "1 of 3 fail" in text
    # Verdicts that need no colour; of what failed, the decision that did is the one to see first.
    assert text.count("✓ PASS") == text.count("✗ FAIL") == text.count("SKIPPED") == 2
    assert "✗ FAIL Two 2 < 1; 1 other below" in text
    assert "4 ranks, laptop scale, 3 runs" in text
    assert "Median over 2 seeds, and faint each of them." in text
    assert "b (diverged)" in text
    assert "9 run folders of 9 not found." in text
    # Two seeds of one method are two faint lines behind its median.
    assert [(row["i"], row["s"]) for row in values_of(figures_of(html)[0][1], "faint")] == [(0, 0), (0, 1)]
    # Medians over the seeds.
    assert "training loss, smoothed at 1 at 2 at 3 a 4.000 3.500 1.000 b (diverged) 4.000 1.000e+30 —" in text
    assert "time of an epoch at 2.000 at 3.000 at 4.000 a 520 ms 770 ms 1.02 s" in text
    assert [found["claim"] for found in json.loads(Path("verdicts.json").read_text())] == ["losses", "swept", "late"]
    assert len(figures_of(html)) == 2


def test_a_claim_may_draw_some_of_its_runs() -> None:
    file = reproduction(Path("rep")) / "claims.json"
    claims = json.loads(file.read_text())
    claims["claims"][0]["figure"]["runs"] = ["a"]
    file.write_text(json.dumps(claims))
    text = " ".join(" ".join(page_of("rep")[0].text).split())
    assert "at 1 at 2 at 3 a 4.000 3.500 1.000" in text
    assert "b (diverged)" not in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["rep", "--plot", "p.png"], "--plot: is for runs"),
        (["rep", "--csv", "-"], "--csv: is for runs"),
        (["broken"], "claims.json is not JSON"),
        (["partial", "--html", "p.html"], "claims.json has no 'claims[1].title'"),
    ],
)
def test_what_is_no_reproduction_is_refused(options: list[str], says: str, refused: Callable[..., str]) -> None:
    reproduction(Path("rep"))
    write_run(Path("a"), [2.0, 1.0])
    for name, content in (("broken", "{"), ("partial", None)):
        Path(name).mkdir()
        about = json.loads(Path("rep/claims.json").read_text())
        del about["claims"][1]["title"]
        Path(name, "claims.json").write_text(content or json.dumps(about))
    assert says in refused("report", *options)


def test_tables_name_their_rows_and_columns() -> None:
    table = Table(["", "figure"], [[TableCell("row", style=3), TableCell("1", detail="2", best=True)]], "caption")
    html = render(Page("t", "l", [Chapter(title, "verdicts", {"count": "", "verdicts": table}) for title in "sS"]))
    assert parsed(html).ids[:2] == ["s1-s", "s2-S"]
    assert '<th scope="col" class="figures">figure</th>' in html
    assert re.search('<th scope="row" class="signed"><svg.*?</svg>row</th>', html)
    assert '<strong>1</strong><span class="detail">2</span>' in html


def luminance(color: str) -> float:
    """WCAG 2.1's relative luminance."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize(("ground", "which"), [(LIGHT_GROUND, 0), (DARK_GROUND, 1)])
def test_lines_stand_out_from_the_ground(ground: str, which: int) -> None:
    for pair in LINES:
        low, high = sorted([luminance(pair[which]), luminance(ground)])
        assert (high + 0.05) / (low + 0.05) >= 3, pair[which]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def in_browser(tmp_path: Path, script: str = "", width: int = 1200) -> list[str]:
    """The lines that a browser without a window writes to its console while it shows page.html.

    Args:
        script: runs with the page's own, which the page's policy is made to allow.
        width: of a frame, since such a browser has no window narrower than some 500 pixels, but a frame is.
    """
    html = Path("page.html").read_text()
    html = html.replace("script-src ", f"script-src {digest(script)} ".replace("'", "&#39;")) if script else html
    Path("inner.html").write_text(html.replace("</body>", f"<script>{script}</script></body>") if script else html)
    Path("framed.html").write_text(f'<body><iframe src="inner.html" width="{width}" height="7000"></iframe></body>')
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=60000", f"--screenshot={tmp_path / 'shot.png'}",
        "--window-size=1300,7100", Path("framed.html").resolve().as_uri(),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return re.findall(r'CONSOLE[:(]\d+[\])] "(.*)", source', finished.stderr)


#: Waits for all charts, then tells what `act` returns.
ACT = """
// The clock is virtual and runs ahead of what browsers do beside it, such as decompression, unless it is kept busy.
const spin = () => { for (let k = 0, x = 0; k < 3e6; k++) x += Math.sqrt(k); };
const wait = (done) => new Promise((resolve) => {
  const timer = setInterval(() => { spin(); if (done()) { clearInterval(timer); resolve(); } }, 20);
});
const later = () => new Promise((resolve) => setTimeout(resolve, 300));
addEventListener("load", async () => {
  const figures = [...document.querySelectorAll("figure")];
  await wait(() => figures.every((figure) => figure.classList.contains("drawn")));
  await later();
  console.log("told " + JSON.stringify(await act(figures)));
});
"""


def told(messages: list[str]) -> Any:
    (message,) = messages
    assert message.startswith("told "), message
    return json.loads(message[5:])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_readers_can_act_on_charts(tmp_path: Path) -> None:
    write_run(Path("a"), [10.0, 8, 6, 5, 4, 3, 2, 2, 1, 0.5])
    write_run(Path("b"), [10.0, 9, 8, 7, 6, 5, 4, 3, 2, 1], algorithm="csgd", nbytes=10)
    page_of("a", "b")
    assert in_browser(tmp_path) == [], "a browser has nothing to complain of"
    act = """
    const act = async ([figure]) => {
      const svg = figure.querySelector(".live svg"), box = svg.getBoundingClientRect();
      const ground = svg.querySelector(".background"), plot = ground.getBoundingClientRect();
      const at = { clientX: plot.left + plot.width / 2, clientY: plot.top + plot.height / 2, bubbles: true };
      const texts = () => [...svg.querySelectorAll("text")].map((text) => text.textContent).sort();
      const hidden = () => [...svg.querySelectorAll(".mark-line path")].filter((line) =>
        [line.getAttribute("opacity"), line.style.opacity, getComputedStyle(line).opacity].includes("0")).length;
      ground.dispatchEvent(new PointerEvent("pointermove", at));
      const tip = [...figure.querySelectorAll(".tip tr")].map((row) => [...row.cells].map((cell) => cell.textContent));
      const name = [...svg.querySelectorAll("text")].find((text) => text.textContent === "csgd");
      const clicks = [hidden()];
      for (let k = 0; k < 2; k++) {
        name.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: box.left + 1, clientY: box.top + 1 }));
        await later();
        clicks.push(hidden());
      }
      const before = texts();
      ground.dispatchEvent(new WheelEvent("wheel", { ...at, deltaY: -300, ctrlKey: true, cancelable: true }));
      await later();
      const zoomed = texts();
      ground.dispatchEvent(new MouseEvent("dblclick", at));
      await later();
      return { tip, clicks, zooms: String(before) !== String(zoomed), back: String(before) === String(texts()) };
    };"""
    found = told(in_browser(tmp_path, ACT + act))
    values = {name: float(value) for name, value in found["tip"]}
    # Halfway between the iterations 1 and 10.
    assert values == {"csgd": pytest.approx(5.5, rel=0.02), "sgd": pytest.approx(3.5, rel=0.02)}
    assert found["clicks"] == [0, 1, 0]
    assert found["zooms"]
    assert found["back"]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_names_are_broken_behind_slashes_and_commas_alone(width: int, tmp_path: Path) -> None:
    names = ["doublesqueeze/onebit", "deepsqueeze/uniform:2,bucket=512", "choco/topk:0.01"]
    for index, name in enumerate(names):
        algorithm, _, compressor = name.partition("/")
        losses = [10.0, 8, 6, 5, 4 - index]
        write_run(Path(f"{index}"), losses, algorithm=algorithm, compressor=compressor, nbytes=100 // (index + 1))
    page_of("0", "1", "2")
    act = """
    const act = () => {
      // Names are spread over texts with places to break between; a line's end shows as the next text's top.
      const broken = [];
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      while (walker.nextNode()) {
        const text = walker.currentNode, parent = text.parentElement;
        if (parent.closest("svg, script, pre, details:not([open])") || !parent.offsetParent) continue;
        for (const match of text.data.matchAll(/[^ \\n]+/g)) {
          const range = document.createRange();
          range.setStart(text, match.index);
          range.setEnd(text, match.index + match[0].length);
          const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
          if (tops.size > 1 && !match[0].includes("-")) broken.push(match[0]);
        }
      }
      return [document.body.textContent.includes("deepsqueeze/"), broken];
    };"""
    assert told(in_browser(tmp_path, ACT + act, width)) == [True, []]


@pytest.mark.skipif(CHROMIUM is None or not shutil.which("pdftotext"), reason="there is no chromium, or no poppler")
def test_a_printed_page_cuts_no_table_and_leaves_no_heading_alone(tmp_path: Path) -> None:
    for index in range(7):
        losses = np.exp(-np.arange(120) / (20 + 3 * index)) + 0.01 * index
        write_run(Path(f"{index}"), losses.tolist(), algorithm=f"deepsqueeze{index}", compressor="uniform:2,bucket=512",
                  nbytes=10**7 // (index + 1), clock=0.5)  # fmt: skip
    page_of(*map(str, range(7)))
    pdf = tmp_path / "page.pdf"
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--no-pdf-header-footer",
        f"--print-to-pdf={pdf}", Path("page.html").resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    boxes = subprocess.run(["pdftotext", "-bbox", pdf, "-"], capture_output=True, text=True, check=True).stdout
    assert max(map(float, re.findall('xMax="([0-9.]+)"', boxes))) <= min(
        map(float, re.findall('width="([0-9.]+)"', boxes))
    )
    # A table that is wider than the paper would make all letters smaller.
    heights = [
        float(b) - float(a) for a, b in re.findall('yMin="([0-9.]+)" xMax="[0-9.]+" yMax="([0-9.]+)">Settings<', boxes)
    ]
    assert heights
    assert max(heights) > 14
    text = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True).stdout
    headings = {
        "Training loss",
        "Training loss by bytes",
        "Training loss by time",
        "Time",
        "Settings",
        "Environment",
        "Numbers",
    }
    pages = [[line.strip() for line in page.splitlines() if line.strip()] for page in text.split("\f") if page.strip()]
    assert len(pages) > 1
    assert not headings & {page[-1].lstrip("▼▾▸▶ ") for page in pages}


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_hangs_over_a_window_and_no_words_touch(width: int, tmp_path: Path) -> None:
    name = "a_name/that,goes:on_and_on_without_any_blank=and_then_some_more"
    write_run(Path("a"), [10.0, 8, 6, 5, 4], algorithm="csgd", compressor=name)
    others = [write_run(Path(f"b{i}"), [10.0, 9, 8, 7, 6 + i / 50], nbytes=10) for i in range(6)]
    page_of("a", *map(str, others))
    act = """
    const act = () => {
      const page = document.documentElement, over = [page.scrollWidth - page.clientWidth], touching = [];
      for (const svg of document.querySelectorAll(".live svg")) {
        const texts = [...svg.querySelectorAll("text, tspan")].filter((text) => !text.querySelector("tspan"));
        const boxes = texts.map((text) => [text, text.getBoundingClientRect(), getComputedStyle(text).opacity]);
        const shown = boxes.filter(([text, box, opacity]) => box.width && opacity > 0 && !text.getAttribute("stroke"));
        for (const [text, box] of shown) {
          over.push(box.right - page.clientWidth, -box.left);
          for (const [other, rest] of shown)
            if (text !== other && text.textContent !== other.textContent && box.left < rest.right
                && rest.left < box.right && box.top < rest.bottom - 4 && rest.top < box.bottom - 4)
              touching.push(text.textContent + " and " + other.textContent);
        }
      }
      return [innerWidth, Math.max(...over), touching];
    };"""
    inner, over, touching = told(in_browser(tmp_path, ACT + act, width))
    assert inner == width
    assert over <= 0.5
    assert touching == []
