"""The figure of the method, drawn by the code: one SVG with real patches, similarities, windows and maps."""

from dataclasses import dataclass, field
from html import escape
from tempfile import TemporaryDirectory

import numpy as np

from exiflang import SpliceLocalizer, exif_to_text, read_exif
from exiflang.simulation import CAMERAS, render_photo
from exiflang.simulation.example import example_mask, example_picture
from exiflang.utils.images import load_image
from exiflang.viz.images import data_uri, heat_colors, picture_panel, shrink

WIDTH, SIDE = 1180, 84  # of the drawing and of a patch, in its units
PATCH = 64  # pixels
TAGS = ("Make", "Model", "ExposureTime", "FNumber", "PhotographicSensitivity")


@dataclass
class Drawing:
    """Parts of an SVG; text and lines take the color of the page's text."""

    parts: list[str] = field(default_factory=list)

    def image(self, x: float, y: float, width: float, height: float, pixels: np.ndarray) -> None:
        self.parts.append(
            f'<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" '
            f'style="image-rendering: pixelated" href="{data_uri(pixels, lossless=True)}"/>'
        )

    def text(self, x: float, y: float, said: str, size: int = 15, anchor: str = "middle", weight: int = 400) -> None:
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
            f'fill="currentColor" stroke="none">{escape(said)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, said: str) -> None:
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none"/>')
        for i, line in enumerate(said.split("\n")):
            self.text(x + width / 2, y + height / 2 + 5 + 18 * (i - said.count("\n") / 2), line)

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self.parts.append(f'<path d="M{x} {y} L{to_x} {to_y}" marker-end="url(#head)" fill="none"/>')

    def svg(self, height: int) -> str:
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0 L8 4 L0 8 z" fill="currentColor" stroke="none"/></marker>'
        )
        return (
            f'<div class="method"><svg viewBox="0 0 {WIDTH} {height}" role="img" stroke="currentColor" '
            f'stroke-width="1.4" font-family="inherit"><title>{escape(TITLE)}</title><defs>{head}</defs>'
            f"{''.join(self.parts)}</svg></div>"
        )


TITLE = (
    "Training: patches and EXIF sentences pass through two towers; their similarities form a matrix with a bright "
    "diagonal. Localization: picture, similarity of its windows, evidence, heatmap."
)


def method_figure() -> str:
    """SVG in HTML: above, how the towers are trained; below, how a picture is localized with them."""
    drawing = Drawing()
    _training(drawing)
    _localization(drawing)
    return drawing.svg(606)


def _training(drawing: Drawing) -> None:
    files = [render_photo(CAMERAS[i], seed=i) for i in (1, 9, 22, 30)]
    drawing.text(0, 22, "Training", 19, "start", 600)
    for i, file in enumerate(files):
        drawing.image(20 + 18 * i, 46 + 18 * i, SIDE, SIDE, load_image(file)[200 : 200 + PATCH, 300 : 300 + PATCH])
    drawing.text(90, 206, "patches of photos")
    for i, file in enumerate(files):
        found = read_exif(file)
        sentence = exif_to_text({name: found[name] for name in TAGS if name in found})
        drawing.text(10, 240 + 19 * i, sentence if len(sentence) <= 44 else sentence[:43] + "…", 12, "start")
    drawing.text(140, 320, "their EXIF, as sentences")
    drawing.box(340, 70, 150, 64, "image tower")
    drawing.box(340, 230, 150, 64, "text tower")
    drawing.arrow(190, 102, 334, 102)
    drawing.arrow(305, 262, 334, 262)
    drawing.arrow(490, 102, 644, 150)
    drawing.arrow(490, 262, 644, 210)
    drawing.image(660, 90, 180, 180, heat_colors(0.12 + 0.75 * np.eye(len(files)), 0.0, 1.0, "viridis"))
    drawing.text(750, 296, "similarity of patches (rows)")
    drawing.text(750, 316, "and sentences (columns)")
    for i, said in enumerate(
        ("The diagonal holds the pairs of", "one photo. The contrastive loss", "raises it above the rest.")
    ):
        drawing.text(870, 160 + 24 * i, said, 15, "start")


def _localization(drawing: Drawing) -> None:
    with TemporaryDirectory() as folder:
        path = example_picture(folder)
        image, result = load_image(path), SpliceLocalizer()(path)
    picture = picture_panel(shrink(image, 320), shrink(example_mask().astype(np.uint8), 320) > 0, "").image
    rows, cols = result.embeddings.shape[:2]
    window = (rows // 4, cols * 2 // 3)
    similar = result.embeddings @ result.embeddings[window]  # [rows, cols]
    top, height, width = 416, 150, 225
    drawing.text(0, 388, "Localization", 19, "start", 600)
    panels = [
        (picture, "picture, spliced region outlined"),
        (_heat(similar), "similarity of all windows to one"),
        (_heat(result.evidence.maps["jpeg_history"]), "evidence, e.g. JPEG history"),
        (heat_colors(shrink(result.heatmap, 320), 0.0, 1.0, "inferno"), "heatmap"),
    ]
    for i, (pixels, said) in enumerate(panels):
        x = 10 + i * 308
        drawing.image(x, top, width, height, pixels)
        drawing.text(x + width / 2, top + height + 22, said)
        if i:
            drawing.arrow(x - 78, top + height / 2, x - 6, top + height / 2)
    for i, said in enumerate(("towers", "file, pixels", "readout")):
        drawing.text(277 + i * 308, top + height / 2 - 10, said, 13)


def _heat(values: np.ndarray) -> np.ndarray:
    """Values [rows, cols] on their own scale → uint8 [rows, cols, 3]."""
    low, high = np.percentile(values, [1, 99])
    return heat_colors(values.astype(np.float32), float(low), float(max(high, low + 1e-6)), "viridis")
