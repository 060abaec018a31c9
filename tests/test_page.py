"""The HTML page of a benchmark: what the file contains, and how Debian's Chromium shows it."""

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
from zoo.report.html.album import PAGE_PNG_BYTES, no_images
from zoo.report.html.page import PAGE_FILES, RowPictures, write_page
from zoo.report.html.summary_text import summarise_groups

SIDE = 28
HOSTILE = "<script>window.hacked=1</script>\"'&</style><img src=x onerror=hacked=1>"
METRICS = [
    {"name": "fid", "title": "FID", "better": "lower", "sentence": "A distance.", "decimals": 2},
    {"name": "recall", "title": "recall", "better": "higher", "sentence": "A share.", "decimals": 3},
    {"name": "ssim_nearest", "title": "SSIM nearest", "better": "match", "sentence": "A similarity.", "decimals": 3},
]
BASELINES = {
    "unseen subjects": (9.3, 0.8, 0.85),
    "train half against half": (4.1, 0.8, 0.86),
    "dataset mean": (260.0, 0.0, 0.77),
    "black": (310.0, 0.0, 0.52),
    "noise": (380.0, 0.0, 0.01),
}
COST = {"parameters_g": 3574656, "macs_g": 104e6, "checkpoint_bytes": 14309632, "nimg": 100032, "wall_s": 882.0}


def metric_value(value, n=2000, **more):
    return {"value": value, "low": value * 0.95, "high": value * 1.05, "n": n, **more}


def metric_values(fid, recall, ssim, n=2000):
    return {"fid": metric_value(fid, n), "recall": metric_value(recall, n), "ssim_nearest": metric_value(ssim, n)}


def row(name, fid, recall=0.4, ssim=0.7, **more):
    plain = {"name": name, "kind": "run", "error": None, "figures": metric_values(fid, recall, ssim), "alarms": []}
    return {**plain, "cost": COST, "recipe": "dcgan-64", "recipe_digest": "9f8e7d6c5b4a", "seeds": [0], **more}


def broken(name="gone", error="no such file"):
    return {"name": name, "kind": "run", "error": error, "figures": {}, "alarms": [], "cost": {}}


def group(rows, resolution=SIDE):
    baselines = [
        {"name": name, "kind": "baseline", "error": None, "figures": metric_values(*values, n=256), "alarms": []}
        for name, values in BASELINES.items()
    ]
    data = {"description": "folder slices: 608 images", "digest": "3b7d9f", "train": 500, "unseen": 108}
    plain = {"name": f"{resolution} x {resolution} grey", "resolution": resolution, "channels": 1, "data": data}
    return {**plain, "ranked_by": "fid", "rows": rows, "baselines": baselines}


def document(*groups, kind="bench", title="zoo bench", **more):
    plain = {"title": title, "kind": kind, "made": "2026-11-20 07:30 UTC", "command": "zoo bench", "notes": []}
    environment = {"zoo": "0.1.0", "torch": "2.15.0", "device": "cpu", "threads": 2}
    return {**plain, "environment": environment, "metrics": METRICS, "groups": list(groups), **more}


def fake_images(count, side=SIDE, channels=1, seed=0):
    """Bright images: so a test can tell them from real ones by looking at their pixels."""
    return np.random.default_rng(seed).integers(190, 240, (count, channels, side, side), np.uint8)


def real_images(count, side=SIDE, channels=1):
    """Dark images: their levels, 60 to 99, occur in nothing else."""
    return np.random.default_rng(1).integers(60, 100, (count, channels, side, side), np.uint8)


def log(points=30):
    rows = [{"nimg": 1000 * i, "loss_d": 2.0 / (i + 1), "loss_g": 1.0 + i % 3} for i in range(points)]
    for i in range(0, points, 5):
        rows[i] |= {"ssim_nearest": 0.3 + 0.01 * i, "ssim_nearest_unseen": 0.85, "unknown": None}
    return rows


def row_pictures(side=SIDE, channels=1, seed=0):
    fakes = fake_images(64 if side <= 64 else 16, side, channels, seed)
    notes = [f"SSIM 0.9, case_{i:03d}" for i in range(3)]
    pairs = {"pairs": fakes[:3], "nearest": real_images(3, side, channels), "pair_notes": notes}
    return RowPictures(fakes=fakes, strip=fakes[:12], log=log(), **pairs)


def bench(**more):
    """A benchmark with everything that a page can show: two that overlap, an alarm, a missing value, a failure."""
    alarm = {"name": "collapse", "metric": "ssim_pairwise", "value": 0.97, "threshold": 0.84, "text": "All are alike."}
    third = row("run-010", 120.0, recall=0.9, ssim=0.95, alarms=[alarm])
    third["figures"]["recall"] = {"value": None, "low": None, "high": None, "n": 600, "note": "not available: too few"}
    plain = document(group([row("run-9", 70.0), row("run-2", 72.0, 0.5, 0.84), third, broken()]), **more)
    pictures = {f"run-{i}": row_pictures(seed=seed) for seed, i in enumerate(("9", "2", "010"))}
    return plain, pictures, {f"{SIDE} x {SIDE} grey": real_images(40)}


def report():
    plain, pictures, reals = bench(kind="report", title="run-9")
    plain["groups"][0]["rows"] = plain["groups"][0]["rows"][:1]
    return plain, pictures, reals


def hostile():
    """A benchmark whose every text is HTML, with a long name and more columns than fit on a sheet of paper."""
    plain, pictures, _ = bench(title=HOSTILE, notes=[HOSTILE], command=HOSTILE)
    long = HOSTILE + "x" * 200
    pictures[long] = pictures.pop("run-9")
    one = plain["groups"][0]
    one["name"] = one["data"]["description"] = HOSTILE
    one["rows"][0] |= {"name": long, "recipe": HOSTILE, "trained_on": HOSTILE}
    one["rows"][0]["figures"]["recall"] = {"value": None, "note": HOSTILE}
    one["rows"][2]["alarms"][0]["text"] = HOSTILE
    one["rows"][3]["error"] = HOSTILE
    one["baselines"][1]["name"] = HOSTILE
    names = [f"m{i}" for i in range(9)]
    plain["metrics"] = [{**metric, "title": HOSTILE, "sentence": HOSTILE} for metric in METRICS]
    plain["metrics"] += [{**METRICS[1], "name": name, "title": f"metric_number_{name}"} for name in names]
    for some in one["rows"][:3]:
        some["figures"] |= {name: metric_value(0.1 * i + 0.05) for i, name in enumerate(names)}
    plain["environment"][HOSTILE] = HOSTILE
    return plain, pictures, {HOSTILE: real_images(40)}


PAGES = {"bench": bench, "report": report, "hostile": hostile}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        write_page(folder / f"{name}.html", *make())
    return {name: folder / f"{name}.html" for name in PAGES}


class Reader(html.parser.HTMLParser):
    """Reads the elements and the text of a page."""

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


def render(tmp_path, plain, pictures=None, reals=None, **options):
    path = tmp_path / "page.html"
    write_page(path, plain, pictures or {}, reals or {}, **options)
    return path.read_text(encoding="utf-8")


def embedded_images(text):
    """Every image in a page, as arrays."""
    for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


# What the file contains --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_page_refers_to_nothing_outside_of_it(name, paths):
    text = paths[name].read_text()
    page = Reader(text)
    ids = page.ids()
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "audio", "video")
        assert not (tag == "script" and "src" in attributes)
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            if key in attributes:
                assert attributes[key].startswith(("data:", "#")), (tag, attributes[key][:60])
        for key in ("href", "for", "aria-labelledby", "aria-describedby"):
            target = attributes.get(key, "")
            assert not target or target.startswith("data:") or target.removeprefix("#") in ids
    if name != "hostile":
        assert not re.search(r"@import|url\(|https?://|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_policy_allows_only_the_script_of_the_page(paths):
    text = paths["bench"].read_text()
    policy = next(a["content"] for tag, a in Reader(text).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    allowed = re.search(r"script-src 'sha256-([^']+)'", policy)[1]
    script = text[text.rindex("<script>") + 8 : text.rindex("</script>")]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed


def test_every_text_is_escaped(paths):
    text = paths["hostile"].read_text()
    page = Reader(text)
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    assert not any(attributes.get("src") == "x" for _, attributes in page.elements)
    assert "<script>window" not in text
    assert HOSTILE in page.words()
    assert json.loads(page.scripts[0])["choices"][0]["name"].startswith(HOSTILE)


def test_name_that_is_not_unicode(tmp_path):
    plain, pictures, reals = bench()
    plain["groups"][0]["rows"][0]["name"] = "run-\udcff"
    pictures["run-\udcff"] = pictures.pop("run-9")
    assert "run-?" in render(tmp_path, plain, pictures, reals)


def test_images_keep_their_pixels(paths):
    size = 6 * (SIDE + 1) + 1
    sheet = next(sheet for sheet in embedded_images(paths["bench"].read_text()) if sheet.shape == (size, size))
    for i in (0, 7, 35):
        top, left = 1 + i // 6 * (SIDE + 1), 1 + i % 6 * (SIDE + 1)
        assert (sheet[top : top + SIDE, left : left + SIDE] == fake_images(64)[i, 0]).all()


@pytest.mark.parametrize("name", ["bench", "report"])
def test_no_reals_removes_every_real_pixel(name, paths, tmp_path):
    def real_pixels(text):
        return sum(int(((sheet >= 60) & (sheet < 100)).sum()) for sheet in embedded_images(text))

    text = paths[name].read_text()
    assert real_pixels(text) > 0
    assert "case_001" in text
    text = render(tmp_path, *PAGES[name](), no_reals=True)
    assert real_pixels(text) == 0
    assert "case_001" not in text
    assert "Nearest training images" not in text
    assert "made without real images" in Reader(text).words()
    assert len(list(embedded_images(text))) > 0


SECTIONS = ["alarms", "ranking", "metrics", "costs", "samples", "nearest", "training", "interpolation", "quiz"]


def sections(text):
    return [attributes["id"] for tag, attributes in Reader(text).elements if tag == "section"]


def test_sections_and_links_are_in_order(paths):
    text = paths["bench"].read_text()
    assert sections(text) == SECTIONS
    links = [a["href"][1:] for tag, a in Reader(text).elements if tag == "a" and "href" in a]
    assert [link for link in links if link in SECTIONS] == SECTIONS
    assert sections(paths["report"].read_text()) == [name for name in SECTIONS if name != "metrics"]


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"log": [{"nimg": 5}, {"loss_d": float("nan"), "nimg": 6}]}, {"training"}),
        ({"strip": no_images()}, {"interpolation"}),
        ({"log": [], "nearest": no_images()}, {"training", "nearest"}),
        ({"fakes": no_images()}, {"samples", "quiz"}),
    ],
)
def test_empty_sections_are_left_out(change, missing, tmp_path):
    plain, pictures, reals = bench()
    pictures = {name: RowPictures(**{**vars(images), **change}) for name, images in pictures.items()}
    assert sections(render(tmp_path, plain, pictures, reals)) == [name for name in SECTIONS if name not in missing]


def test_page_without_any_result(tmp_path):
    plain = document(group([broken("one"), broken("two", HOSTILE)]))
    plain["groups"][0] |= {"ranked_by": None, "baselines": []}
    text = render(tmp_path, plain)
    assert sections(text) == ["alarms", "ranking"]
    assert "no such file" in text
    assert "could not be ranked" in Reader(text).words()
    assert sections(render(tmp_path, document())) == ["alarms", "ranking"]
    alone = document(group([row("only", 70.0, cost={}, recipe=None, seeds=None)]), metrics=[])
    assert "only" in render(tmp_path, alone)


def test_groups_are_ranked_separately(tmp_path):
    plain, pictures, reals = bench()
    plain["groups"].append(group([row("large", 50.0)], 64))
    pictures["large"] = row_pictures(64)
    reals["64 x 64 grey"] = real_images(40, 64)
    page = Reader(render(tmp_path, plain, pictures, reals))
    assert sum(tag == "table" and "values" in a["class"] for tag, a in page.elements) == 2
    assert "At 64 x 64 grey, large has FID 50" in page.words()
    choices = json.loads(page.scripts[0])["choices"]
    assert [choice["group"] for choice in choices] == ["28 x 28 grey"] * 3 + ["64 x 64 grey"]


@pytest.mark.parametrize(("side", "channels"), [(128, 1), (256, 3)])
def test_sizes_and_channels(side, channels, tmp_path):
    plain = document(group([row("run", 70.0)], side))
    reals = {f"{side} x {side} grey": real_images(12, side, channels)}
    text = render(tmp_path, plain, {"run": row_pictures(side, channels)}, reals)
    assert sections(text) == SECTIONS
    assert len(next(embedded_images(text)).shape) == (3 if channels == 3 else 2)


def test_large_benchmark_stays_within_the_limit(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 256)[:, None] * np.linspace(0, 1, 256)
    fakes = (smooth + rng.normal(0, 20, (16, 1, 256, 256))).clip(0, 255).astype(np.uint8)
    images = RowPictures(fakes=fakes, pairs=fakes[:4], nearest=fakes[4:8], strip=fakes[:12])
    plain = document(group([row(f"run-{i}", 70.0 + i) for i in range(8)], 256))
    text = render(tmp_path, plain, {f"run-{i}": images for i in range(8)}, {"256 x 256 grey": fakes})
    size = sum(len(data) * 3 / 4 for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", text))
    assert 0.3 * PAGE_PNG_BYTES < size < 1.1 * PAGE_PNG_BYTES
    assert len(text) < 8e6
    assert re.search(r"Shown at \d+ of 256 pixels", text)


def test_failed_write_keeps_the_old_page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    with pytest.raises(ValueError, match="uint8"):
        write_page(path, bench()[0], {"run-9": RowPictures(fakes=np.zeros((4, 1, 8, 8)))}, {})
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_same_document_makes_the_same_page_and_is_not_changed(paths, tmp_path):
    plain, pictures, reals = bench()
    before = copy.deepcopy(plain)
    assert render(tmp_path, plain, pictures, reals) == paths["bench"].read_text()
    assert plain == before


def test_missing_values_have_a_reason(paths):
    text = paths["bench"].read_text()
    cell = re.search(r'<td class="absent" title="not available: too few">.*?</td>', text, re.S)[0]
    assert "not available" in Reader(cell).words()
    target = re.search(r'href="#([^"]+)"', cell)[1]
    assert re.search(rf'<li id="{target}">Not available: too few.</li>', text)


def test_spread_over_training_seeds_is_shown(tmp_path):
    many = row("many", 70.0, spread={"fid": {"mean": 70.0, "sd": 3.25, "seeds": 3}}, seeds=[0, 1, 2])
    words = Reader(render(tmp_path, document(group([many])))).words()
    assert "± 3.2" in words
    assert "mean of 3 training seeds" in words


# Texts and colours -------------------------------------------------------------------------------------------------


def summary(plain):
    text = " ".join(paragraph.striptags() for paragraph in summarise_groups(plain))
    return text.replace(f" {number_format.DASH} ", "-")  # `striptags` makes narrow spaces plain ones


def test_summary_compares_the_first_with_held_out_images():
    checked = {"checked_alarms": ["collapse", "untrained"]}
    text = summary(document(group([row("a", 70.0, **checked), row("b", 90.0, **checked)])))
    assert text.startswith("Of 2 generators of 28 x 28 grey images, a ranks first by FID: 70.00 [66.5-73.5]")
    assert "held-out real images have 9.30 [8.8" in text
    assert "(lower is better; from 2,000 and 256 images: FID falls with their number" in text
    assert "7.5 times as much" in text
    assert "Second is b with 90.00 [85.5-94.5]; the two intervals do not overlap." in text
    assert "No alarm was triggered; not evaluated: memorisation." in text


def test_summary_leaves_open_what_is_not_settled():
    text = summary(bench()[0])
    assert "overlaps with that of run-2, so which of them is better is not settled" in text
    assert "collapse for 1 of 4 (run-010)" in text
    assert "1 of 4 could not be evaluated (gone)" in text


def test_summary_doubts_values_that_are_too_good():
    assert "a reason to look for copies" in summary(document(group([row("a", 5.0)])))
    alarm = {"name": "memorisation", "metric": "copies_ssim", "value": 0.5, "threshold": 0.1, "text": "Copied."}
    text = summary(document(group([row("a", 50.0, alarms=[alarm]), row("b", 90.0)])))
    assert "It triggered the memorisation alarm, so this first place means little." in text


def test_summary_lists_what_is_missing():
    plain = document(group([row("a", 70.0)]))
    plain["groups"][0]["rows"][0]["figures"]["recall"] = {"value": None, "note": "not available"}
    assert summary(plain).endswith("Not available: recall.")
    plain["groups"][0] |= {"baselines": [], "ranked_by": "fid"}
    assert "a has FID 70.00 [66.5-73.5] (lower is better)." in summary(plain)
    plain["groups"][0]["ranked_by"] = None
    assert "could not be ranked" in summary(plain)


def luminance(colour):
    colour = colour.lstrip("#")
    colour = "".join(c * 2 for c in colour) if len(colour) == 3 else colour[:6]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4
              for v in (int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4))]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast_is_sufficient(mode):
    """WCAG 2: 4.5 for text, 3 for lines and the edges of controls."""
    style = (PAGE_FILES / "page.css").read_text()
    colours = re.findall(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]+), (#[0-9a-f]+)\)", style)
    colour = {name: both[mode] for name, *both in colours}

    def contrast(a, b):
        high, low = sorted((luminance(colour[a]), luminance(colour[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text in ("ink", "soft", "accent", "warn", "good"):
        assert contrast(text, "page") >= 4.5, text
    for pair in (("ink", "warn-panel"), ("warn", "warn-panel"), ("ink", "panel"), ("page", "accent")):
        assert contrast(*pair) >= 4.5, pair
    for drawn in ("edge", "warn-edge", *(f"ink{i}" for i in range(svg_charts.CURVE_COLOURS))):
        assert contrast(drawn, "page") >= 3, drawn


# How Chromium shows it ---------------------------------------------------------------------------------------------

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
# Chromium listens on file descriptor 3 and answers on 4; a small program moves the pipes there after the fork.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """A browser that is controlled with the DevTools protocol over a pair of pipes."""

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
    """A page in the browser, with the errors in ``complaints`` and the addresses that it loaded in ``requests``."""

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
        """Wait until the events that follow from the last step have been sent."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script):
        """Return the value of a JavaScript expression, awaited."""
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
@pytest.mark.parametrize("name", PAGES)
def test_page_renders_without_requests(name, open_page):
    tab = open_page(name)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [tab.address]
    assert tab.run("[...document.images].filter(i => i.src && !(i.complete && i.naturalWidth)).length") == 0
    assert tab.run("document.images.length") > 3
    assert tab.run("typeof window.hacked") == "undefined"


@needs_chromium
def test_policy_refuses_other_scripts_and_requests(open_page):
    tab = open_page("bench")
    script = "Object.assign(document.createElement('script'), { textContent: 'window.hacked = 1' })"
    tab.run(f"document.body.append({script})")
    assert tab.run("typeof window.hacked") == "undefined"
    assert tab.run("fetch('https://example.org').then(() => 'loaded', () => 'refused')") == "refused"
    image = "new Image(), { onload: () => r('loaded'), onerror: () => r('refused'), src: 'https://a.b/x' }"
    assert tab.run(f"new Promise(r => Object.assign({image}))") == "refused"


NAMES = "[...document.querySelectorAll('table.values.sorts tbody:not(.baselines) .name')].map(e => e.textContent)"
BASELINE_NAMES = "[...document.querySelectorAll('table.values.sorts .baselines .name')].map(e => e.textContent)"
ORDERS = "[...document.querySelectorAll('table.values.sorts thead th')].map(e => e.getAttribute('aria-sort'))"


@needs_chromium
def test_tables_sort(open_page):
    tab = open_page("bench")

    def click(column):
        tab.run(f"document.querySelectorAll('table.values.sorts thead button')[{column}].click()")
        return tab.run(NAMES)

    assert tab.run(NAMES) == ["run-9", "run-2", "run-010", "gone"]
    assert tab.run(ORDERS) == ["none", "ascending", "none", "none"]  # as ranked
    assert click(1) == ["run-010", "run-2", "run-9", "gone"]
    assert tab.run(ORDERS) == ["none", "descending", "none", "none"]
    assert click(2) == ["run-2", "run-9", "run-010", "gone"]  # higher is better; missing values last, then failures
    assert tab.run(ORDERS) == ["none", "none", "descending", "none"]
    assert click(2) == ["run-9", "run-2", "run-010", "gone"]
    assert tab.run(ORDERS) == ["none", "none", "ascending", "none"]
    assert click(3) == ["run-2", "run-010", "run-9", "gone"]  # 0.84, 0.95 and 0.70; held-out images have 0.85
    assert tab.run(ORDERS) == ["none", "none", "none", "other"]
    assert tab.run(BASELINE_NAMES)[:2] == ["unseen subjects", "train half against half"]
    assert click(0) == ["gone", "run-2", "run-9", "run-010"]  # numbers in names by value
    assert click(0) == ["run-010", "run-9", "run-2", "gone"]
    assert tab.run("document.querySelector('#sorted').textContent") == "Sorted by Generator, Z first."
    tab.press("Tab")  # by keyboard: the first heading still has no focus
    tab.run("document.querySelectorAll('table.values.sorts thead button')[0].focus()")
    tab.press("Tab")
    assert tab.run("document.activeElement.textContent") == "FID"
    tab.press("Enter")
    assert tab.run(NAMES)[0] == "run-9"
    tab.press(" ")
    assert tab.run(NAMES)[0] == "run-010"
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert tab.complaints == []


@needs_chromium
def test_baselines_can_be_hidden(open_page):
    tab = open_page("bench")
    rows = "[...document.querySelectorAll('.baselines tr, .forest .baseline')].filter(e => e.checkVisibility()).length"
    assert tab.run(rows) == 10
    tab.run("document.querySelector('.show-baselines').click()")
    assert tab.run(rows) == 0
    tab.run("document.querySelector('.show-baselines').click()")
    assert tab.run(rows) == 10


# Whether each canvas is bright, that is, a fake: see `fake_images` and `real_images`.
ARE_FAKE = """Promise.all([...document.images].map(i => i.decode().catch(() => 0)))
    .then(() => new Promise(r => setTimeout(r, 50)))
    .then(() => [...document.querySelectorAll('#quiz-board canvas')].map(c => {
        const data = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let sum = 0;
        for (let i = 0; i < data.length; i += 4) sum += data[i];
        return sum / (data.length / 4) > 128;
    }))"""
SCORE = "document.querySelector('#quiz-score').textContent"


def mark_tiles(tab, places):
    tab.run(f"{json.dumps(places)}.forEach(i => document.querySelectorAll('#quiz-board button')[i].click())")


def check_answers(tab):
    tab.run("document.querySelector('#quiz-check').click()")
    return tab.run(SCORE)


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report"])
def test_quiz_counts_correctly_and_reveals_nothing(name, open_page):
    tab = open_page(name)
    fakes = tab.run(ARE_FAKE)
    assert len(fakes) == 20
    assert 8 <= sum(fakes) <= 12
    assert fakes not in (sorted(fakes), sorted(fakes, reverse=True))
    tiles = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.outerHTML.replace(/[0-9]+/, 'N'))")
    assert len(set(tiles)) == 1
    labels = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.getAttribute('aria-label'))")
    assert labels == [f"Image {i + 1}" for i in range(20)]
    mark_tiles(tab, [i for i, fake in enumerate(fakes) if fake])
    expected = "20 of 20 right. Guessing gives 10 on average, and 20 or more once in 1,048,576 tries."
    assert check_answers(tab) == expected
    words = tab.run("[...document.querySelectorAll('#quiz-board button')].map(b => b.textContent)")
    assert words == ["✓ fake" if fake else "✓ real" for fake in fakes]
    mark_tiles(tab, list(range(20)))  # nothing counts after the check
    assert check_answers(tab) == expected
    assert tab.complaints == []


@needs_chromium
def test_quiz_has_further_rounds_and_works_by_keyboard(open_page):
    tab = open_page("bench")
    first = tab.run(ARE_FAKE)
    tab.run("document.querySelector('#quiz-board button').focus()")
    tab.press(" ")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert tab.run("document.querySelector('#quiz-marked').textContent") == "1 of 20 marked as fake"
    tab.press("Enter")
    assert tab.run("document.activeElement.getAttribute('aria-pressed')") == "false"
    wrong = [i for i, fake in enumerate(first) if not fake][:3]
    mark_tiles(tab, wrong)
    right = 20 - sum(first) - 3
    assert check_answers(tab).startswith(f"{right} of 20 right.")
    labels = tab.run("[...document.querySelectorAll('#quiz-board .wrong')].map(b => b.getAttribute('aria-label'))")
    assert len(labels) == 20 - right
    assert f"Image {wrong[0] + 1}: real, wrong" in labels
    assert tab.run("document.activeElement.id") == "quiz-again"
    tab.run("document.querySelector('#quiz-again').click()")
    assert tab.run(ARE_FAKE) != first
    assert tab.run(SCORE) == ""
    tab.run(
        "{ const s = document.querySelector('#quiz-generator'); s.value = '2'; s.dispatchEvent(new Event('change')); }"
    )
    assert len(tab.run(ARE_FAKE)) == 20
    assert open_page("bench").run(ARE_FAKE) == first  # every reader starts with the same tiles


OVERLAPS = """(() => {
    const overlapping = [];
    for (const axis of document.querySelectorAll('.up, .across, .track.axis .plot')) {
        const boxes = [...axis.children].map(e => [e.textContent, e.getBoundingClientRect()]);
        boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
            const apart = p.left >= q.right || q.left >= p.right || p.top >= q.bottom || q.top >= p.bottom;
            if (!apart) overlapping.push(a + ' on ' + b);
        }));
    }
    return [overlapping, document.querySelectorAll('.up span, .across span').length];
})()"""


@needs_chromium
@pytest.mark.parametrize("name", PAGES)
def test_page_fits_a_phone(name, open_page):
    tab = open_page(name, width=360, height=760, mobile=True)
    assert tab.run("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    outside = """[...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.scroll, .visually-hidden, svg, dialog, .skip') && e.checkVisibility()
            && e.getBoundingClientRect().right > 361).map(e => e.outerHTML.slice(0, 90))"""
    assert tab.run(outside) == []
    small = """[...document.querySelectorAll('button, select')].filter(e => e.checkVisibility() && !e.matches('.sort')
        && Math.min(e.offsetWidth, e.offsetHeight) < 32).map(e => e.outerHTML.slice(0, 90))"""
    assert tab.run(small) == []
    assert tab.run("document.querySelector('.scroll').scrollWidth > document.querySelector('.scroll').clientWidth")
    first = "document.querySelector('.scroll tbody th').getBoundingClientRect().left"
    before = tab.run(first)
    tab.run("document.querySelector('.scroll').scrollLeft = 200")
    assert tab.run(first) == before  # the names stay
    for width in (360, 1280):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=760, deviceScaleFactor=1, mobile=False)
        tab.settle()
        overlapping, labels = tab.run(OVERLAPS)
        assert labels > 6
        assert overlapping == []


@needs_chromium
def test_dark_mode(open_page):
    tab = open_page("bench", scheme="dark")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    curve = "getComputedStyle(document.querySelector('.curves .line')).stroke"
    dark = tab.run(f"[{background}, {curve}]")
    tab.media(scheme="light")
    light = tab.run(f"[{background}, {curve}]")
    assert (dark[0], light[0]) == ("rgb(20, 22, 26)", "rgb(255, 255, 255)")
    assert dark[1] != light[1]
    assert tab.run("document.querySelector('#theme').textContent") == "Dark"
    tab.run("document.querySelector('#theme').click()")
    assert tab.run(f"[{background}, {curve}]") == dark
    tab.media("print", scheme="dark")
    assert tab.run(background) == "rgb(255, 255, 255)"  # paper is white


@needs_chromium
@pytest.mark.parametrize("name", PAGES)
def test_print_opens_everything_and_hides_controls(name, open_page):
    tab = open_page(name)
    if name == "bench":
        tab.run("document.querySelector('.show-baselines').click()")
    tab.media("print")
    controls = "[...document.querySelectorAll('button, select, input, summary')].filter(e => e.checkVisibility()"
    assert tab.run(f"{controls} && !e.matches('.sort, .zoom, summary, .legend button')).length") == 0

    def visible(selector, options=""):
        return tab.run(f"document.querySelector('{selector}').checkVisibility({options})")

    assert not visible("#quiz")
    assert visible(".provenance dl", "{ contentVisibilityAuto: true }")
    if name == "bench":
        assert visible(".baselines tr")
        assert visible(".forest .baseline")
    if name == "hostile":  # more columns than fit on a sheet
        assert tab.run("document.querySelectorAll('.paper table').length") == 2
        assert visible(".paper")
        assert not visible("table.sorts.values")
    sheet = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])
    assert sheet.startswith(b"%PDF")
    assert 1 < sheet.count(b"/Type /Page\n") < 20
    assert tab.complaints == []


@needs_chromium
def test_grids_have_whole_pixels_and_can_be_enlarged(open_page):
    tab = open_page("bench")
    assert tab.run("[...document.querySelectorAll('.zoom img')].map(i => i.width / i.naturalWidth)") == [2, 2, 2]
    assert tab.run("getComputedStyle(document.querySelector('.zoom img')).imageRendering") == "pixelated"
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
def test_legend_highlights_a_curve(open_page):
    tab = open_page("bench")
    opacity = "[...document.querySelectorAll('.series')].map(e => getComputedStyle(e).opacity)"
    assert set(tab.run(opacity)) == {"1"}
    tab.run("document.querySelectorAll('.legend button')[1].click()")
    slots = tab.run("[...document.querySelectorAll('.series')].map(e => e.dataset.slot)")
    assert tab.run(opacity) == ["1" if slot == "1" else "0.12" for slot in slots]
    tab.run("document.querySelectorAll('.legend button')[1].click()")
    assert set(tab.run(opacity)) == {"1"}


@needs_chromium
@pytest.mark.parametrize("name", ["bench", "report"])
def test_screen_readers_find_names_and_headings(name, open_page):
    tab = open_page(name)
    nodes = [node for node in tab.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    for node in nodes:
        if node["role"]["value"] in ("button", "link", "image", "combobox", "checkbox", "table", "region"):
            assert node["name"]["value"].strip(), node
    levels = [int(tag[1]) for tag in tab.run("[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert {"main", "banner", "contentinfo", "navigation"} <= {node["role"]["value"] for node in nodes}
