"""`zoo explore`: the page makes torch's images in a browser, and its directions are principal components."""

import json
import re

import numpy as np
import pytest
import torch

import zoo
from tests.test_export import make_generator
from tests.test_page import Chromium, Tab, needs_chromium
from zoo.cli.main import main
from zoo.core.errors import ZooError
from zoo.hub.explorer import find_directions

pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")


def read_content(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="content">(.*?)</script>', text)[1])


def read_pixels(tab, canvas):
    """The grey levels (H, W) that a canvas shows."""
    script = f"""(() => {{
      const canvas = document.querySelector("#{canvas}");
      const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return [canvas.width, ...image.data.filter((_, i) => i % 4 === 0)];
    }})()"""
    answer = tab.run(script)
    values = list(answer.values()) if isinstance(answer, dict) else answer
    return np.array(values[1:], float).reshape(values[0], -1)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("explorer-chromium"))
    yield browser
    browser.close()


def test_directions_without_styles_are_those_of_the_first_layer():
    network = make_generator("r3gan").generator
    found = find_directions(network)
    # A linear layer of unit normal latents: its principal directions are its right singular vectors.
    _, singular, rows = torch.linalg.svd(network.linear.weight.detach())
    directions = torch.tensor(found["directions"])
    cosines = torch.nn.functional.cosine_similarity(directions[0], rows[0], dim=0).abs()
    assert cosines > 0.9  # of 2,048 latents
    assert found["variance"][0] == pytest.approx(float(singular[0] ** 2 / singular.square().sum()), rel=0.1)
    assert directions.norm(dim=1).numpy() == pytest.approx(1, rel=0.15)
    assert (np.diff(found["variance"]) <= 0).all()
    assert found["mean"] == []


def test_directions_with_styles_are_those_of_w():
    generator = make_generator("stylegan2")
    found = find_directions(generator.generator)
    w = generator.generator.mapping(generator.latents(2048)).detach().numpy()
    values, vectors = np.linalg.eigh(np.cov(w.T))
    assert found["mean"] == pytest.approx(w.mean(0).tolist(), abs=0.1)  # of other latents
    assert found["variance"] == pytest.approx((values[::-1][:8] / values.sum()).tolist(), rel=1e-3)
    first = np.array(found["directions"][0])
    assert abs(first @ vectors[:, -1]) == pytest.approx(np.sqrt(values[-1]), rel=1e-2)


def test_the_page_holds_everything_and_asks_for_nothing(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["explore", "dcgan-64", "--runs", str(runs), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    path = tmp_path / document["path"]
    assert path.name == "dcgan-64-explorer.html"
    assert path.stat().st_size == document["size"] < 20e6
    text = path.read_text(encoding="utf-8")
    head = text[: text.index('<script type="application/octet-stream"')]
    assert not re.findall(r'(?:src|href)="(?!data:)', head)
    assert "default-src 'none'" in head
    for part in ("not for diagnosis", "0.0 kimg", "MIT License", "GANSpace", "digest"):
        assert part in text, part
    content = read_content(path)
    assert (content["resolution"], content["styles"], len(content["directions"])) == (16, 0, 8)
    assert "<img" not in text


def test_wrong_suffix_and_missing_generator_write_nothing(runs, tmp_path):
    with pytest.raises(ZooError, match="Change the suffix"):
        zoo.explore(runs / "dcgan-64-000", tmp_path / "page.pdf")
    assert main(["explore", "dcgan-46", "--runs", str(runs), "--out", str(tmp_path / "page.html")]) == 2
    assert list(tmp_path.iterdir()) == []


# Without styles; with noise, styles and classes; latents of fewer than 16 numbers are drawn in another way.
@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("name", ["r3gan with classes", "stylegan", "stylegan2 with classes", "r3gan of few latents"])
def test_the_browser_makes_the_images_of_torch(name, chromium, tmp_path):
    generator = make_generator(name)
    zoo.explore(generator, tmp_path / "page.html")
    tab = Tab(chromium, tmp_path / "page.html")
    tab.run("zooExplorer")
    assert tab.complaints == []
    assert tab.requests == [tab.address]
    difference = [
        np.abs(read_pixels(tab, f"tile-{index}") - image[0])
        for index, image in enumerate(generator.sample(16).numpy().astype(float))
    ]
    assert np.mean(difference) < 1
    assert np.max(difference) <= 2
    check_controls(tab, generator)
    tab.close()


def check_controls(tab, generator):
    """An address sets seed, class, truncation and picks; sliders change images as torch would."""
    label = {"label": 1} if generator.classes else {}
    truncation = {"truncation": 0.5} if generator.has_styles else {}
    tab.run(f"location.hash = 'seed=7&a=3&b=6&t=1{'&class=1' if label else ''}&psi=0.5&cut=2'")
    tab.run(
        "new Promise(done => { const look = () => document.body.ariaBusy ? setTimeout(look, 20) : done(); "
        "setTimeout(look, 100); })"
    )
    images = generator.sample(16, 7, **label, **truncation).numpy().astype(float)[:, 0]
    for canvas, wanted in (
        ("tile-15", images[15]),
        ("changed", images[2]),
        ("step-0", images[2]),
        ("step-6", images[5]),
    ):
        assert np.abs(read_pixels(tab, canvas) - wanted).mean() < 1, canvas
    assert np.abs(read_pixels(tab, "between") - images[5]).mean() < 1
    before = read_pixels(tab, "changed")
    tab.run("document.querySelector('#direction-0').focus()")
    tab.press("ArrowRight")  # the keyboard moves sliders
    tab.run("new Promise(done => setTimeout(done, 500))")
    assert "directions=0.1,0" in tab.run("location.hash")
    assert np.abs(read_pixels(tab, "changed") - before).max() > 0
    tab.run("document.querySelector('#reset').click()")
    tab.run("new Promise(done => setTimeout(done, 500))")
    assert np.abs(read_pixels(tab, "changed") - before).max() == 0
    if generator.has_styles:
        check_mixing(tab, generator, label)


def check_mixing(tab, generator, label):
    z = generator.latents(16, 7)
    classes = generator.labels(label.get("label"), 16, 7)
    network = generator.generator
    w = torch.lerp(torch.tensor(find_directions(network)["mean"]), network.mapping(z, classes), 0.5)
    styles = torch.stack([w[2] if k < 2 else w[5] for k in range(network.num_styles)])
    # Noise of the third image: styles of sixteen images, of which it is the third.
    from zoo.models.sampling import synthesise_images

    wanted = (synthesise_images(network, styles[None].repeat(16, 1, 1), seed=7)[2, 0].clamp(-1, 1) + 1) * 127.5
    assert np.abs(read_pixels(tab, "mixed") - wanted.numpy()).mean() < 1
