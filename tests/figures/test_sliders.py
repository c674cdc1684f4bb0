"""The page with sliders, in a real browser: it draws what the model decodes."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from objectwise.core import UserError
from objectwise.figures.sliders import PageLayer, write_sliders
from objectwise.models import model_class
from objectwise.recipes.sliders import page_layers, write_slider_page

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "fc": ("beta_vae", 32, {"architecture": "fc"}),
    "conv": ("beta_vae", 32, {"architecture": "conv", "latent_size": 7}),
    "all_conv": ("beta_vae", 32, {"architecture": "all_conv"}),
    "burgess": ("beta_vae", 64, {"architecture": "burgess"}),
    "broadcast": ("beta_vae", 32, {"decoder": "broadcast", "broadcast_widths": (8, 8), "latent_size": 4}),
    "vae": ("vae", 50, {"latent_size": 6, "channels": 8}),
}


def made(name: str) -> Any:
    """An untrained model whose decoder's weights are large enough to see."""
    kind, side, settings = MODELS[name]
    model_type = model_class(kind)
    torch.manual_seed(1)
    model = model_type(model_type.Config.parse({"image_shape": (1, side, side), **settings}))
    generator = torch.Generator().manual_seed(2)
    for module in model.decoder.modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            fan = weight[:, 0].numel() / 4 if isinstance(module, torch.nn.ConvTranspose2d) else weight[0].numel()
            torch.nn.init.normal_(weight, std=1.5 / fan**0.5, generator=generator)
            torch.nn.init.normal_(module.bias, std=0.3, generator=generator)
    return model.eval()


def browsed(page: Path, script: str, ready: str = "true") -> Any:
    """What a script returns in a page in headless Chromium, once an expression is true there."""
    assert BROWSER is not None
    probe = f"""<script>const wait = setInterval(() => {{ if (!({ready})) return;
        clearInterval(wait); const p = document.createElement("pre"); p.id = "probe";
        p.textContent = JSON.stringify((() => {{ {script} }})()); document.body.append(p); }}, 50);</script>"""
    copy = page.with_name(f"probe-{page.name}")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=20000",
        "--allow-file-access-from-files",
    ]
    flags += [f"--user-data-dir={page.parent / 'profile'}", "--dump-dom"]
    found = subprocess.run([BROWSER, *flags, copy.as_uri()], capture_output=True, text=True, timeout=280, check=False)
    told = re.search(r'<pre id="probe">(.*?)</pre>', found.stdout, re.DOTALL)
    assert told, found.stderr[-2000:]
    return json.loads(html.unescape(told.group(1)))


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")


@needs_browser
def test_the_page_draws_what_the_models_decode(tmp_path: Path) -> None:
    """All decoders in one browser: each page's model is put into one page, its decode called with one code."""
    codes, expected, pages = {}, {}, {}
    for name in MODELS:
        model = made(name)
        side = MODELS[name][1]
        images = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(3))
        path = write_slider_page(model, images, tmp_path / f"{name}.html", name)
        assert path is not None
        with torch.no_grad():
            codes[name] = torch.randn(model(images).slots.shape[2], generator=torch.Generator().manual_seed(4))
            expected[name] = model.decode(codes[name].view(1, 1, -1)).reconstruction[0, 0].numpy()
        pages[name] = path.read_text(encoding="utf-8")
    # One start of the browser for all: every page is a frame of one page, to which it sends what it decodes.
    frames = ""
    for name, text in pages.items():
        asked = json.dumps(codes[name].tolist())
        told = f"parent.postMessage({{name: '{name}', size: x.size, data: Array.from(x.data)}}, '*')"
        script = f"<script>setTimeout(() => {{ const x = objectwise.decode({asked}); {told}; }}, 20);</script></body>"
        (tmp_path / f"{name}.html").write_text(text.replace("</body>", script), encoding="utf-8")
        frames += f'<iframe src="{name}.html"></iframe>'
    listener = "<script>window.got = {}; onmessage = (e) => { got[e.data.name] = e.data; };</script>"
    whole = tmp_path / "all.html"
    whole.write_text(f"<html><body>{listener}{frames}</body></html>", encoding="utf-8")
    found = browsed(whole, "return got;", ready=f"Object.keys(got).length === {len(MODELS)}")
    for name in MODELS:
        side = MODELS[name][1]
        pixels = np.array(found[name]["data"]).reshape(found[name]["size"])[0, :side, :side]
        assert expected[name].std() > 0.02, name
        error = np.abs(pixels - expected[name])
        assert error.max() < (0.05 if name in ("fc", "vae") else 1e-4), name  # theirs are 8-bit weights
        assert error.mean() < 0.01, name


@needs_browser
def test_sliders_buttons_and_examples_work(tmp_path: Path) -> None:
    """A decoder that lights pixel (row 0, column d) by latent d: moving a slider moves that pixel and its readout alone."""
    weight = np.zeros((6, 3), np.float32)
    weight[:3] = 4.0 * np.eye(3)
    layers = [
        PageLayer("linear", weight, np.zeros(6, np.float32)),
        PageLayer("unflatten", settings={"size": [1, 2, 3]}),
        PageLayer("sigmoid"),
    ]
    codes = np.array([[0.0, 1.0, 0.0], [2.0, 0.0, -2.0]])
    images = np.linspace(0.0, 1.0, 12).reshape(2, 1, 2, 3)
    page = write_sliders(
        tmp_path / "sliders.html",
        "a <b> & c",
        layers,
        (1, 2, 3),
        np.array([0.5, 0.1, 1.0]),
        dead=[2],
        codes=codes,
        images=images,
    )
    found = browsed(
        page,
        """
        const canvas = document.getElementById("image"), seen = [];
        const pixels = () => Array.from(canvas.getContext("2d").getImageData(0, 0, 3, 2).data).filter((_, i) => i % 4 === 0);
        const now = () => { const code = Array.from(objectwise.code); return {code, told: document.querySelector("#z0")
          .parentElement.querySelector("output").textContent}; };
        seen.push({pixels: pixels(), ...now()});
        const input = document.getElementById("z0");
        input.value = -1.5; input.dispatchEvent(new Event("input"));
        seen.push(now());
        document.getElementById("examples").children[1].click();
        seen.push(now());
        document.getElementById("zero").click();
        seen.push(now());
        document.getElementById("random").click();
        seen.push(now());
        return {seen, order: Array.from(document.querySelectorAll("input")).map((i) => i.id), title: document.title,
          folded: document.getElementById("unused").children.length, summary: document.querySelector("summary").textContent,
          reach: [input.min, input.max]};
        """,
    )
    first, moved, example, zero, drawn = found["seen"]
    assert first["code"] == [0.0, 1.0, 0.0]
    assert first["pixels"] == [128, round(255 / (1 + np.exp(-4.0))), 128, 128, 128, 128]
    assert (moved["code"], moved["told"]) == ([-1.5, 1.0, 0.0], "-1.50")
    assert (example["code"], example["told"]) == ([2.0, 0.0, -2.0], "2.00")
    assert zero["code"] == [0.0, 0.0, 0.0]
    assert len({round(value, 6) for value in drawn["code"]}) == 3
    assert found["order"] == ["z1", "z0", "z2"]
    assert found["folded"] == 1
    assert found["summary"] == "1 latent is not in use"
    assert found["title"] == "a <b> & c"
    assert found["reach"] == ["-3", "3"]


def test_the_page_is_self_contained_and_keeps_large_weights_small(tmp_path: Path) -> None:
    model = made("fc")
    images = torch.rand(4, 1, 32, 32)
    path = write_slider_page(model, images, tmp_path / "sliders.html", "fully connected")
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=|https?:|@import|fetch\(|XMLHttp""", text)
    assert "$" not in re.sub(r'<script id="model".*?</script>', "", text, flags=re.DOTALL)
    weights = sum(parameter.numel() for parameter in model.decoder.parameters())
    assert path.stat().st_size < 1.5 * weights
    record = json.loads(re.search(r'application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert record["order"] == np.argsort(record["stds"], kind="stable").tolist()
    assert len(record["examples"]) == 4


def test_decoders_that_the_page_cannot_compute_have_none(tmp_path: Path) -> None:
    class Odd(torch.nn.Module):
        decoder = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.GELU())

    assert page_layers(Odd()) is None
    assert page_layers(torch.nn.Linear(2, 2)) is None
    assert write_slider_page(Odd(), torch.rand(2, 1, 2, 2), tmp_path / "x.html", "x") is None
    assert not (tmp_path / "x.html").exists()


def test_examples_must_fit(tmp_path: Path) -> None:
    layers = [
        PageLayer("linear", np.zeros((4, 2), np.float32), np.zeros(4)),
        PageLayer("unflatten", settings={"size": [1, 2, 2]}),
    ]
    with pytest.raises(UserError, match=r"examples need codes \(n, 2\)"):
        write_sliders(
            tmp_path / "x.html",
            "x",
            layers,
            (1, 2, 2),
            np.ones(2),
            codes=np.zeros((1, 3)),
            images=np.zeros((1, 1, 2, 2)),
        )
