"""The HTML page of a bench: what is in the file, and what Debian's Chromium makes of it."""

import base64
import copy
import hashlib
import html.parser
import io
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.report import number_format
from zoo.report.html import svg_charts
from zoo.report.html.album import BUDGET
from zoo.report.html.page import HOME, RowPictures, write_page
from zoo.report.html.summary_text import summarise_group

SIDE = 28
HOSTILE = "<script>window.hacked=1</script>\"'&</style><img src=x onerror=hacked=1>"
METRICS = [
    {"name": "fid", "title": "FID", "better": "lower", "sentence": "A distance.", "decimals": 2},
    {"name": "recall", "title": "recall", "better": "higher", "sentence": "A share.", "decimals": 3},
    {"name": "ssim_nearest", "title": "SSIM nearest", "better": "match", "sentence": "A likeness.", "decimals": 3},
]
BASELINES = {
    "unseen subjects": (9.3, 0.8, 0.85),
    "train half against half": (4.1, 0.8, 0.86),
    "dataset mean": (260.0, 0.0, 0.77),
    "black": (310.0, 0.0, 0.52),
    "noise": (380.0, 0.0, 0.01),
}
COST = {"parameters_g": 3574656, "macs_g": 104e6, "checkpoint_bytes": 14309632, "nimg": 100032, "wall_s": 882.0}


def figure(value, n=2000, **more):
    return {"value": value, "low": value * 0.95, "high": value * 1.05, "n": n, **more}


def figures(fid, recall, ssim, n=2000):
    return {"fid": figure(fid, n), "recall": figure(recall, n), "ssim_nearest": figure(ssim, n)}


def row(name, fid, recall=0.4, ssim=0.7, **more):
    plain = {"name": name, "kind": "run", "error": None, "figures": figures(fid, recall, ssim), "alarms": []}
    return {**plain, "cost": COST, "recipe": "dcgan-64", "recipe_digest": "9f8e7d6c5b4a", "seeds": [0], **more}


def broken(name="gone", error="no such file"):
    return {"name": name, "kind": "run", "error": error, "figures": {}, "alarms": [], "cost": {}}


def group(rows, resolution=SIDE, name=None):
    baselines = [
        {"name": key, "kind": "baseline", "error": None, "figures": figures(*values, n=256), "alarms": [], "cost": {}}
        for key, values in BASELINES.items()
    ]
    data = {"description": "folder slices: 608 images", "digest": "3b7d9f", "train": 500, "unseen": 108}
    name = name or f"{resolution} x {resolution} grey"
    plain = {"name": name, "resolution": resolution, "channels": 1, "data": data, "ranked_by": "fid"}
    return {**plain, "rows": rows, "baselines": baselines}


def document(*groups, kind="bench", title="zoo bench", **more):
    plain = {"title": title, "kind": kind, "made": "2026-11-20 07:30 UTC", "command": "zoo bench", "notes": []}
    environment = {"zoo": "0.1.0", "torch": "2.15.0", "device": "cpu", "threads": 2}
    return {**plain, "environment": environment, "metrics": METRICS, "groups": list(groups), **more}


def noise(count, side=SIDE, low=190, high=240, channels=1, seed=0):
    """Bright, as no real image here is: so a test can tell them apart by looking."""
    return np.random.default_rng(seed).integers(low, high, (count, channels, side, side), np.uint8)


def dark(count, side=SIDE, channels=1, seed=1):
    """Real images: their levels, 60 to 99, occur in nothing else."""
    return noise(count, side, 60, 100, channels, seed)


def log(points=30, negative=False):
    rows = [{"nimg": 1000 * i, "loss_d": 2.0 / (i + 1) - negative, "loss_g": 1.0 + i % 3} for i in range(points)]
    for i in range(0, points, 5):
        rows[i] |= {"ssim_nearest": 0.3 + 0.01 * i, "ssim_nearest_unseen": 0.85, "unknown": None}
    return rows


def shown(side=SIDE, channels=1, seed=0, pairs=3):
    fakes = noise(64 if side <= 64 else 16, side, channels=channels, seed=seed)
    real = dark(pairs, side, channels)
    notes = [f"SSIM 0.9, case_{i:03d}" for i in range(pairs)]
    return RowPictures(fakes=fakes, pairs=fakes[:pairs], nearest=real, pair_notes=notes, strip=fakes[:12], log=log())


def bench(**more):
    alarm = {"name": "collapse", "metric": "ssim_pairwise", "value": 0.97, "threshold": 0.84, "text": "All are alike."}
    absent = {"value": None, "low": None, "high": None, "n": 600, "note": "not available: too few images"}
    third = row("run-010", 120.0, recall=0.9, ssim=0.95, alarms=[alarm])
    third["figures"]["recall"] = absent
    plain = document(group([row("run-9", 70.0), row("run-2", 72.0, 0.5, 0.84), third, broken()]), **more)
    return (
        plain,
        {f"run-{i}": shown(seed=k) for k, i in enumerate(("9", "2", "010"))},
        {f"{SIDE} x {SIDE} grey": dark(40)},
    )


def report():
    plain, pictures, reals = bench(kind="report", title="run-9")
    plain["groups"][0]["rows"] = plain["groups"][0]["rows"][:1]
    return plain, pictures, reals


class Reader(html.parser.HTMLParser):
    """Elements and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self._inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text.append(data)
        elif self._inside[-1] == "script":
            self.scripts.append(data)

    def ids(self):
        return [attributes["id"] for _, attributes in self.elements if attributes.get("id")]

    def words(self):
        return " ".join(" ".join(self.text).split())


def written(tmp_path, plain, pictures=None, reals=None, **options):
    path = tmp_path / "page.html"
    write_page(path, plain, pictures or {}, reals or {}, **options)
    return path.read_text(encoding="utf-8")


def embedded(text):
    """Every picture in a page, as arrays."""
    for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


# What is in the file -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bench, report])
def test_the_file_needs_nothing_else(make, tmp_path):
    text = written(tmp_path, *make())
    for tag, attributes in Reader(text).elements:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video")
        for key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            if key in attributes and tag != "script":
                assert attributes[key].startswith(("data:", "#")), (tag, attributes[key][:60])
        assert not (tag == "script" and "src" in attributes)
        assert not [key for key in attributes if key.startswith("on")]
    assert not re.search(r"@import|url\(|https?://|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))
    ids = Reader(text).ids()
    assert len(ids) == len(set(ids))
    for _, attributes in Reader(text).elements:
        for key in ("href", "for", "aria-labelledby", "aria-describedby"):
            target = attributes.get(key, "")
            if target and not target.startswith("data:"):
                assert target.removeprefix("#") in ids


def test_only_the_pages_own_script_may_run(tmp_path):
    text = written(tmp_path, *bench())
    policy = next(a["content"] for tag, a in Reader(text).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    allowed = re.search(r"script-src 'sha256-([^']+)'", policy)[1]
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed


def test_pictures_are_whole(tmp_path):
    plain, pictures, reals = bench()
    sheets = list(embedded(written(tmp_path, plain, pictures, reals)))
    assert all(sheet.dtype == np.uint8 for sheet in sheets)
    first = next(sheet for sheet in sheets if sheet.shape == (6 * (SIDE + 1) + 1, 6 * (SIDE + 1) + 1))
    fakes = pictures["run-9"].fakes
    for i in (0, 7, 35):
        top, left = 1 + i // 6 * (SIDE + 1), 1 + i % 6 * (SIDE + 1)
        assert (first[top : top + SIDE, left : left + SIDE] == fakes[i, 0]).all()


@pytest.mark.parametrize("make", [bench, report])
def test_without_reals_no_real_pixel_is_in_the_file(make, tmp_path):
    plain, pictures, reals = make()

    def real_pixels(text):
        return sum(int(((sheet >= 60) & (sheet < 100)).sum()) for sheet in embedded(text))

    text = written(tmp_path, plain, pictures, reals)
    assert real_pixels(text) > 0
    assert "case_001" in text
    assert "quiz-data" in text
    text = written(tmp_path, plain, pictures, reals, no_reals=True)
    assert real_pixels(text) == 0
    assert "case_001" not in text
    assert "Nearest training images" not in text
    assert (
        "this page was made without them" in Reader(text).words() or "made without real images" in Reader(text).words()
    )
    assert sum(1 for _ in embedded(text)) > 0


def test_names_are_text(tmp_path):
    plain, pictures, _ = bench(title=HOSTILE, notes=[HOSTILE], command=HOSTILE)
    pictures[HOSTILE] = pictures.pop("run-9")
    one = plain["groups"][0]
    one["name"] = HOSTILE
    one["data"]["description"] = HOSTILE
    one["rows"][0] |= {"name": HOSTILE, "recipe": HOSTILE, "trained_on": HOSTILE}
    one["rows"][0]["figures"]["recall"] = {"value": None, "note": HOSTILE}
    one["rows"][2]["alarms"][0]["text"] = HOSTILE
    one["rows"][3]["error"] = HOSTILE
    one["baselines"][1]["name"] = HOSTILE
    plain["metrics"] = [{**metric, "title": HOSTILE, "sentence": HOSTILE} for metric in METRICS]
    plain["environment"][HOSTILE] = HOSTILE
    text = written(tmp_path, plain, pictures, {HOSTILE: dark(40)})
    page = Reader(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    assert not any(attributes.get("src") == "x" for _, attributes in page.elements)
    assert "<script>window" not in text
    assert HOSTILE in page.words()
    data = json.loads(page.scripts[0])
    assert data["choices"][0]["name"] == HOSTILE


def test_a_name_that_is_no_unicode_spoils_nothing(tmp_path):
    plain, pictures, reals = bench()
    plain["groups"][0]["rows"][0]["name"] = "run-\udcff"
    pictures["run-\udcff"] = pictures.pop("run-9")
    assert "run-?" in written(tmp_path, plain, pictures, reals)


SECTIONS = ["alarms", "ranking", "metrics", "costs", "samples", "neighbours", "training", "walks", "quiz"]


def sections(text):
    return [attributes["id"] for tag, attributes in Reader(text).elements if tag == "section"]


def test_sections_stand_in_order(tmp_path):
    assert sections(written(tmp_path, *bench())) == SECTIONS
    links = [a["href"][1:] for tag, a in Reader(written(tmp_path, *bench())).elements if tag == "a" and "href" in a]
    assert [link for link in links if link in SECTIONS] == SECTIONS
    assert sections(written(tmp_path, *report())) == [name for name in SECTIONS if name != "metrics"]


@pytest.mark.parametrize(
    ("without", "gone"),
    [
        ({"log": []}, {"training"}),
        ({"strip": np.zeros((0, 1, 1, 1), np.uint8)}, {"walks"}),
        ({"nearest": np.zeros((0, 1, 1, 1), np.uint8)}, {"neighbours"}),
        ({"fakes": np.zeros((0, 1, 1, 1), np.uint8)}, {"samples", "quiz"}),
        ({"log": [{"nimg": 5}, {"loss_d": float("nan"), "nimg": 6}]}, {"training"}),
    ],
)
def test_what_is_not_there_is_not_shown(without, gone, tmp_path):
    plain, pictures, reals = bench()
    pictures = {name: RowPictures(**{**vars(own), **without}) for name, own in pictures.items()}
    assert sections(written(tmp_path, plain, pictures, reals)) == [name for name in SECTIONS if name not in gone]


def test_a_page_of_next_to_nothing(tmp_path):
    plain = document(group([broken("one"), broken("two", HOSTILE)]))
    plain["groups"][0] |= {"ranked_by": None, "baselines": []}
    text = written(tmp_path, plain)
    assert sections(text) == ["alarms", "ranking"]
    assert "no such file" in text
    assert "could not be ranked" in Reader(text).words()
    assert sections(written(tmp_path, document())) == ["alarms", "ranking"]
    alone = document(group([row("only", 70.0, cost={}, recipe=None, seeds=None)]), metrics=[])
    assert "only" in written(tmp_path, alone)


def test_two_groups_are_ranked_apart(tmp_path):
    plain, pictures, reals = bench()
    plain["groups"].append(group([row("large", 50.0)], 64))
    pictures["large"] = shown(64)
    reals["64 x 64 grey"] = dark(40, 64)
    page = Reader(written(tmp_path, plain, pictures, reals))
    assert sum(tag == "table" and "figures" in a["class"] for tag, a in page.elements) == 2
    assert "scores FID 50" in page.words().replace("  ", " ")
    choices = json.loads(page.scripts[0])["choices"]
    assert [choice["group"] for choice in choices] == ["28 x 28 grey"] * 3 + ["64 x 64 grey"]


@pytest.mark.parametrize(("side", "channels"), [(28, 3), (64, 1), (128, 1), (256, 3)])
def test_sizes_and_colours(side, channels, tmp_path):
    plain = document(group([row("run", 70.0)], side))
    pictures = {"run": shown(side, channels)}
    text = written(tmp_path, plain, pictures, {f"{side} x {side} grey": dark(12, side, channels)})
    assert sections(text) == SECTIONS
    assert len(next(embedded(text)).shape) == (3 if channels == 3 else 2)


def test_a_large_bench_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 256)[:, None] * np.linspace(0, 1, 256)
    fakes = (smooth + rng.normal(0, 20, (16, 1, 256, 256))).clip(0, 255).astype(np.uint8)
    own = RowPictures(fakes=fakes, pairs=fakes[:4], nearest=fakes[4:8], strip=fakes[:12])
    rows = [row(f"run-{i}", 70.0 + i) for i in range(8)]
    plain = document(group(rows, 256))
    text = written(tmp_path, plain, {f"run-{i}": own for i in range(8)}, {"256 x 256 grey": fakes})
    assert len(text) < 8e6
    assert (
        0.3 * BUDGET < sum(len(data) * 3 / 4 for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)) < 1.1 * BUDGET
    )
    assert re.search(r"Shown at \d+ of 256 pixels", text)


def test_a_page_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    with pytest.raises(ValueError, match="uint8"):
        write_page(path, *bench()[:1], {"run-9": RowPictures(fakes=np.zeros((4, 1, 8, 8)))}, {})
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_the_same_document_makes_the_same_page(tmp_path):
    assert written(tmp_path, *bench()) == written(tmp_path, *bench())


def test_nothing_is_changed_on_the_way(tmp_path):
    plain, pictures, reals = bench()
    before = copy.deepcopy(plain)
    written(tmp_path, plain, pictures, reals)
    assert plain == before


def test_absent_figures_say_why(tmp_path):
    text = written(tmp_path, *bench())
    cell = re.search(r'<td class="absent" title="not available: too few images">.*?</td>', text, re.S)[0]
    assert "not available" in Reader(cell).words()
    target = re.search(r'href="#([^"]+)"', cell)[1]
    assert re.search(rf'<li id="{target}">not available: too few images</li>', text)


def test_spread_over_seeds_is_shown(tmp_path):
    many = row("many", 70.0, spread={"fid": {"mean": 70.0, "sd": 3.25, "seeds": 3}}, seeds=[0, 1, 2])
    words = Reader(written(tmp_path, document(group([many])))).words()
    assert "± 3.2" in words
    assert "mean of 3 training seeds" in words


# Words and numbers -------------------------------------------------------------------------------------------------


def said(plain):
    text = " ".join("".join(sentence) for paragraph in summarise_group(plain) for sentence in paragraph)
    return text.replace(number_format.NARROW, "").replace(number_format.DASH, "-")


def test_the_verdict_names_the_first_against_the_ceiling():
    text = said(document(group([row("a", 70.0), row("b", 90.0)])))
    assert text.startswith("Of 2 generators of 28 x 28 grey images, a comes first by FID: 70.00 [66.5-73.5]")
    assert "unseen subjects score 9.30 [8.8" in text
    assert "7.5 times as much" in text
    assert "Second is b with 90.00 [85.5-94.5]; the two intervals do not overlap." in text
    assert "No alarm rang." in text


def test_the_verdict_leaves_open_what_is_not_settled():
    text = said(bench()[0])
    assert "overlaps with that of run-2: which of them is better is not settled" in text
    assert "collapse for 1 of 4 (run-010)" in text
    assert "1 of 4 could not be judged (gone)" in text


def test_the_verdict_doubts_what_is_too_good():
    assert "a reason to look for copies" in said(document(group([row("a", 5.0)])))
    alarm = {"name": "memorisation", "metric": "copies_ssim", "value": 0.5, "threshold": 0.1, "text": "Copied."}
    text = said(document(group([row("a", 50.0, alarms=[alarm]), row("b", 90.0)])))
    assert "The memorisation alarm rings for it, so this first place means little." in text


def test_the_verdict_says_what_is_missing():
    plain = document(group([row("a", 70.0)]))
    plain["groups"][0]["rows"][0]["figures"]["recall"] = {"value": None, "note": "not available"}
    assert said(plain).endswith("Not available: recall.")
    plain["groups"][0] |= {"baselines": [], "ranked_by": "fid"}
    assert "a scores FID 70.00 [66.5-73.5] (lower is better)." in said(plain)
    plain["groups"][0]["ranked_by"] = None
    assert "could not be ranked" in said(plain)


def luminance(colour):
    colour = colour.lstrip("#")
    colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour[:6]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
              for v in (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_to_read_by(mode):
    """WCAG 2: 4.5 for text, 3 for lines and the edges of controls."""
    style = (HOME / "page.css").read_text()
    found = re.findall(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\)", style)
    colour = {name: both[mode] for name, *both in found}

    def contrast(a, b):
        high, low = sorted((luminance(colour[a]), luminance(colour[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "soft", "accent", "warn", "good"):
        assert contrast(text, "page") >= 4.5, text
    for pair in (("ink", "warn-panel"), ("warn", "warn-panel"), ("ink", "panel"), ("page", "accent")):
        assert contrast(*pair) >= 4.5, pair
    for drawn in ("edge", "warn-edge", *(f"ink{i}" for i in range(svg_charts.INKS))):
        assert contrast(drawn, "page") >= 3, drawn


# What Chromium makes of it -----------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or ("/usr/bin/chromium" if Path("/usr/bin/chromium").exists() else None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# Chromium listens on file descriptor 3 and answers on 4: moved there by a small program, since only it may be forked.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """A browser, spoken to by the DevTools protocol over a pair of pipes."""

    def __init__(self, home):
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={home}", "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs), str(back), CHROMIUM, *flags],
            pass_fds=(theirs, back),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._last, self._bytes, self.events = 0, b"", []

    def call(self, method, session=None, **params):
        self._last += 1
        message = {"id": self._last, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def wait(self, method, session):
        while True:
            for event in self.events:
                if event["method"] == method and event.get("sessionId") == session:
                    self.events.remove(event)
                    return event
            self.events.append(self._read())

    def _read(self):
        while b"\0" not in self._bytes:
            assert select.select([self._from], [], [], 60)[0], "Chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium is gone"
            self._bytes += data
        message, self._bytes = self._bytes.split(b"\0", 1)
        return json.loads(message)

    def close(self):
        self.call("Browser.close")
        self.process.wait(30)
        os.close(self._to)
        os.close(self._from)


class Tab:
    """A page in the browser; what went wrong in it is in ``complaints``, what it asked for in ``requests``."""

    def __init__(self, chromium, path, width=1280, height=900, scheme="light", mobile=False):
        self.chromium = chromium
        self.target = chromium.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = chromium.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.media(scheme=scheme)
        self.address = path.resolve().as_uri()
        self.call("Page.navigate", url=self.address)
        chromium.wait("Page.loadEventFired", self.session)

    def call(self, method, **params):
        return self.chromium.call(method, self.session, **params)

    def media(self, kind="screen", scheme="light"):
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.call("Emulation.setEmulatedMedia", media=kind, features=features)
        self.settle()

    def settle(self):
        """Until events that follow from the last step have been sent."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script):
        """The value of a JavaScript expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        more = {"Enter": {"text": "\r", "windowsVirtualKeyCode": 13}, " ": {"text": " ", "windowsVirtualKeyCode": 32}}
        codes = {"Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37}
        params = more.get(key) or {"windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **params)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **params)
        self.settle()

    def events(self, *methods):
        return [
            e["params"] for e in self.chromium.events if e.get("sessionId") == self.session and e["method"] in methods
        ]

    @property
    def complaints(self):
        self.run("1")
        return self.events("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

    @property
    def requests(self):
        self.run("1")
        return [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]

    def close(self):
        self.chromium.call("Target.closeTarget", targetId=self.target)
        self.chromium.events.clear()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """One page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    plain, pictures, reals = bench()
    write_page(folder / "bench.html", plain, pictures, reals)
    write_page(folder / "report.html", *report())
    plain, pictures, reals = bench(title=HOSTILE)
    long = HOSTILE + "x" * 200
    plain["groups"][0]["rows"][0]["name"] = long
    plain["metrics"] = [*METRICS, *({**METRICS[1], "name": f"m{i}", "title": f"metric_number_{i}"} for i in range(9))]
    for one in plain["groups"][0]["rows"][:3]:
        one["figures"] |= {f"m{i}": figure(0.1 * i + 0.05) for i in range(9)}
    pictures[long] = pictures.pop("run-9")
    write_page(folder / "hostile.html", plain, pictures, reals)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture
def open_page(chromium, paths):
    tabs = []

    def open_(name, **options):
        tabs.append(Tab(chromium, paths[name], **options))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.close()


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report", "hostile"])
def test_it_renders_and_asks_for_nothing(name, open_page):
    tab = open_page(name)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [tab.address]
    broken_images = "[...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length"
    assert tab.run(broken_images) == 0
    assert tab.run("document.images.length") > 3
    assert tab.run("typeof window.hacked") == "undefined"


@needs_chromium
def test_no_other_script_runs(open_page):
    tab = open_page("bench")
    tab.run(
        "{ const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s); }"
    )
    assert tab.run("typeof window.hacked") == "undefined"
    assert tab.run("fetch('https://example.org').then(() => 'went out', () => 'refused')") == "refused"
    picture = (
        "Object.assign(new Image(), { onload: () => r('shown'), onerror: () => r('refused'), src: 'https://a.b/x' })"
    )
    assert tab.run(f"new Promise(r => {picture})") == "refused"


NAMES = "[...document.querySelectorAll('table.figures.sorts tbody:not(.baselines) .who')].map(e => e.textContent)"
FLOORS = "[...document.querySelectorAll('table.figures.sorts .baselines .who')].map(e => e.textContent)"
SORTED = "[...document.querySelectorAll('table.figures.sorts thead th')].map(e => e.getAttribute('aria-sort'))"


@needs_chromium
def test_tables_sort(open_page):
    tab = open_page("bench")

    def click(column):
        tab.run(f"document.querySelectorAll('table.figures.sorts thead button')[{column}].click()")
        return tab.run(NAMES)

    assert tab.run(NAMES) == ["run-9", "run-2", "run-010", "gone"]
    assert tab.run(SORTED) == ["none", "ascending", "none", "none"]  # as ranked
    assert click(1) == ["run-010", "run-2", "run-9", "gone"]
    assert tab.run(SORTED) == ["none", "descending", "none", "none"]
    assert click(2) == ["run-2", "run-9", "run-010", "gone"]  # higher is better; absent after present, broken last
    assert tab.run(SORTED) == ["none", "none", "descending", "none"]
    assert click(2) == ["run-9", "run-2", "run-010", "gone"]
    assert tab.run(SORTED) == ["none", "none", "ascending", "none"]
    assert click(3) == ["run-2", "run-010", "run-9", "gone"]  # 0.84, 0.95 and 0.70 against the 0.85 of unseen reals
    assert tab.run(SORTED) == ["none", "none", "none", "other"]
    assert tab.run(FLOORS)[:2] == ["unseen subjects", "train half against half"]
    assert click(0) == ["gone", "run-2", "run-9", "run-010"]  # numbers in names by value
    assert click(0) == ["run-010", "run-9", "run-2", "gone"]
    assert tab.run("document.querySelector('#sorted').textContent") == "Sorted by Generator, Z first."
    assert tab.complaints == []


@needs_chromium
def test_tables_sort_by_keyboard(open_page):
    tab = open_page("bench")
    tab.run("document.querySelectorAll('table.figures.sorts thead button')[0].focus()")
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "FID"
    tab.press("Enter")
    assert tab.run(NAMES)[0] == "run-010"
    tab.press(" ")
    assert tab.run(NAMES)[0] == "run-9"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@needs_chromium
def test_baselines_can_be_hidden(open_page):
    tab = open_page("bench")
    visible = (
        "[...document.querySelectorAll('.baselines tr, .forest .baseline')].filter(e => e.checkVisibility()).length"
    )
    assert tab.run(visible) == 10
    tab.run("document.querySelector('.show-baselines').click()")
    assert tab.run(visible) == 0
    tab.run("document.querySelector('.show-baselines').click()")
    assert tab.run(visible) == 10


# A bright canvas is a fake: see `noise` and `dark`.
LOOK = """Promise.all([...document.images].map(i => i.decode().catch(() => 0)))
    .then(() => new Promise(r => setTimeout(r, 50)))
    .then(() => [...document.querySelectorAll('#quiz-board canvas')].map(c => {
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let sum = 0;
        for (let i = 0; i < data.length; i += 4) sum += data[i];
        return sum / (data.length / 4) > 128;
    }))"""
SCORE = "document.querySelector('#quiz-score').textContent"


def mark(tab, places):
    tab.run(f"{json.dumps(places)}.forEach(i => document.querySelectorAll('#quiz-board button')[i].click())")


def check(tab):
    tab.run("document.querySelector('#quiz-check').click()")
    return tab.run(SCORE)


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report"])
def test_the_quiz_counts_right(name, open_page):
    tab = open_page(name)
    fakes = tab.run(LOOK)
    assert len(fakes) == 20
    assert 8 <= sum(fakes) <= 12
    mark(tab, [i for i, fake in enumerate(fakes) if fake])
    expected = "20 of 20 right. Guessing gives 10 on average, and 20 or more once in 1,048,576 tries."
    assert check(tab) == expected
    words = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.textContent)")
    assert words == ["✓ fake" if fake else "✓ real" for fake in fakes]
    mark(tab, list(range(20)))  # nothing counts after the check
    assert check(tab) == expected
    assert tab.complaints == []


@needs_chromium
def test_the_quiz_goes_on(open_page):
    tab = open_page("bench")
    first = tab.run(LOOK)
    wrong = [i for i, fake in enumerate(first) if not fake][:3]
    mark(tab, wrong)
    right = 20 - sum(first) - 3
    assert check(tab).startswith(f"{right} of 20 right.")
    labels = tab.run("[...document.querySelectorAll('#quiz-board .wrong')].map(b => b.getAttribute('aria-label'))")
    assert len(labels) == 20 - right
    assert f"Picture {wrong[0] + 1}: real, wrong" in labels
    assert tab.run("document.activeElement.id") == "quiz-again"
    tab.run("document.querySelector('#quiz-again').click()")
    second = tab.run(LOOK)
    assert tab.run(SCORE) == ""
    assert second != first
    tab.run("{ const s = document.querySelector('#quiz-who'); s.value = '2'; s.dispatchEvent(new Event('change')); }")
    assert len(tab.run(LOOK)) == 20
    assert open_page("bench").run(LOOK) == first  # every reader begins with the same tiles


@needs_chromium
def test_tiles_give_nothing_away(open_page):
    tab = open_page("bench")
    fakes = tab.run(LOOK)
    tiles = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.outerHTML.replace(/[0-9]+/, 'N'))")
    assert len(set(tiles)) == 1
    numbers_ = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.getAttribute('aria-label'))")
    assert numbers_ == [f"Picture {i + 1}" for i in range(20)]
    assert fakes not in (sorted(fakes), sorted(fakes, reverse=True))


@needs_chromium
def test_the_quiz_works_by_keyboard(open_page):
    tab = open_page("bench")
    tab.run("document.querySelector('#quiz-board button').focus()")
    tab.press(" ")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert tab.run("document.querySelector('#quiz-marked').textContent") == "1 of 20 marked as fake"
    tab.press("Enter")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "false"


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report", "hostile"])
def test_a_phone_shows_it_without_scrolling_sideways(name, open_page):
    tab = open_page(name, width=360, height=760, mobile=True)
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    outside = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, .unseen, svg, dialog, .skip')
        && e.checkVisibility() && e.getBoundingClientRect().right > 361).map(e => e.outerHTML.slice(0, 90))"""
    assert tab.run(outside) == []
    small = """[...document.querySelectorAll('button, select')].filter(e => e.checkVisibility() && !e.matches('.sort')
        && Math.min(e.offsetWidth, e.offsetHeight) < 32).map(e => e.outerHTML.slice(0, 90))"""
    assert tab.run(small) == []
    wide = tab.run("document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth")
    first = "document.querySelector('.scroll tbody th').getBoundingClientRect().left"
    before = tab.run(first)
    tab.run("document.querySelector('.scroll').scrollLeft = 200")
    assert wide
    assert tab.run(first) == before  # the names stay


OVERLAPS = """(() => {
    const found = [];
    for (const axis of document.querySelectorAll('.up, .across, .track.axis .plot')) {
        const boxes = [...axis.children].map(e => [e.textContent, e.getBoundingClientRect()]);
        boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
            const apart = p.left >= q.right || q.left >= p.right || p.top >= q.bottom || q.top >= p.bottom;
            if (!apart) found.push(a + ' on ' + b);
        }));
    }
    return [found, document.querySelectorAll('.up span, .across span').length];
})()"""


@needs_chromium
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["bench", "report"])
def test_labels_do_not_overlap(name, width, open_page):
    overlapping, labels = open_page(name, width=width).run(OVERLAPS)
    assert labels > 6
    assert overlapping == []


@needs_chromium
def test_dark_mode(open_page):
    tab = open_page("bench", scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    line = "getComputedStyle(document.querySelector('.curves .line')).stroke"
    night = tab.run(f"[{ground}, {line}]")
    tab.media(scheme="light")
    day = tab.run(f"[{ground}, {line}]")
    assert (night[0], day[0]) == ("rgb(20, 22, 26)", "rgb(255, 255, 255)")
    assert night[1] != day[1]
    assert tab.run("document.querySelector('#theme').textContent") == "Dark"
    tab.run("document.querySelector('#theme').click()")
    assert tab.run(f"[{ground}, {line}]") == night
    tab.media("print", scheme="dark")
    assert tab.run(ground) == "rgb(255, 255, 255)"  # paper is white


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report", "hostile"])
def test_on_paper_all_is_open_and_nothing_to_press(name, open_page):
    tab = open_page(name)
    if name == "bench":
        tab.run("document.querySelector('.show-baselines').click()")
    tab.media("print")
    pressable = "[...document.querySelectorAll('button, select, input, summary')].filter(e => e.checkVisibility()"
    assert tab.run(f"{pressable} && !e.matches('.sort, .zoom, summary, .legend button')).length") == 0
    assert tab.run("document.querySelector('#quiz').checkVisibility()") is False
    assert tab.run("document.querySelector('.made dl').checkVisibility({ contentVisibilityAuto: true })") is True
    if name == "bench":
        assert tab.run("document.querySelector('.baselines tr').checkVisibility()") is True
        assert tab.run("document.querySelector('.forest .baseline').checkVisibility()") is True
    if name == "hostile":  # more columns than fit on a sheet
        assert tab.run("document.querySelectorAll('.paper table').length") == 2
        assert tab.run("document.querySelector('.paper').checkVisibility()") is True
        assert tab.run("document.querySelector('table.sorts.figures').checkVisibility()") is False
    sheet = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])
    assert sheet.startswith(b"%PDF")
    assert 1 < sheet.count(b"/Type /Page\n") < 20
    assert tab.complaints == []


@needs_chromium
def test_small_grids_are_shown_by_a_whole_factor(open_page):
    tab = open_page("bench")
    assert tab.run("[...document.querySelectorAll('.zoom img')].map(i => i.width / i.naturalWidth)") == [2, 2, 2]
    assert tab.run("getComputedStyle(document.querySelector('.zoom img')).imageRendering") == "pixelated"


@needs_chromium
def test_grids_can_be_enlarged(open_page):
    tab = open_page("bench")
    title = "document.querySelector('#viewer-title').textContent"
    tab.run("document.querySelector('.zoom').focus()")
    tab.press("Enter")
    assert tab.run("document.querySelector('#viewer').open") is True
    assert tab.run(title) == "run-9"
    width = "document.querySelector('#viewer-image').getBoundingClientRect().width"
    assert tab.run(width) > tab.run("document.querySelector('.zoom').offsetWidth")
    tab.press("ArrowRight")
    assert tab.run(title) == "run-2"
    tab.press("ArrowLeft")
    tab.press("ArrowLeft")
    assert tab.run(title) == "run-010"
    tab.press("Escape")
    assert tab.run("document.querySelector('#viewer').open") is False
    assert tab.run("document.activeElement === document.querySelectorAll('.zoom')[2]") is True
    assert tab.complaints == []


@needs_chromium
def test_the_legend_singles_out_a_line(open_page):
    tab = open_page("bench")
    faint = "[...document.querySelectorAll('.series')].map(e => getComputedStyle(e).opacity)"
    assert set(tab.run(faint)) == {"1"}
    tab.run("document.querySelectorAll('.legend button')[1].click()")
    series = tab.run("[...document.querySelectorAll('.series')].map(e => e.dataset.slot)")
    assert tab.run(faint) == ["1" if slot == "1" else "0.12" for slot in series]
    tab.run("document.querySelectorAll('.legend button')[1].click()")
    assert set(tab.run(faint)) == {"1"}


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report"])
def test_who_cannot_see_it_can_read_it(name, open_page):
    tab = open_page(name)
    nodes = tab.call("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node["ignored"] and role in ("button", "link", "image", "combobox", "checkbox", "table", "region"):
            assert node["name"]["value"].strip(), (role, node)
    levels = tab.run("[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert {"main", "banner", "contentinfo", "navigation"} <= set(roles)
