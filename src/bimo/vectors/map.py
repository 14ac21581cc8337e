"""A map of words in two dimensions: those whose vectors are near each other stand together."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bimo.files import replacing
from bimo.runtime import USAGE, UserError
from bimo.text.segment import HAN

__all__ = ["FORMATS", "draw_map", "lay_out"]

FORMATS = (".svg", ".png")
INCHES, DOTS_PER_INCH = 10, 150
PERPLEXITY = 15.0

FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # how matplotlib calls the whole collection
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Heiti SC",
    "Microsoft YaHei",
    "SimHei",
    "Noto Serif CJK SC",
    "Noto Serif CJK JP",
    "SimSun",
)
"""Fonts with Chinese characters of Linux, macOS and Windows, those without serifs first."""


def lay_out(vectors: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """[N, D] -> [N, 2] by t-SNE (van der Maaten and Hinton 2008) over angles; fewer than four words by their order."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return np.column_stack([np.arange(len(vectors)), np.zeros(len(vectors))]).astype(np.float32)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(units)


def draw_map(words: Sequence[str], vectors: np.ndarray, path: Path, *, seed: int = 0) -> int:
    """Draw words at their places into a .svg or .png; returns how many have their label beside the dot.

    Earlier words have their labels first; one that would cover another's stays without. Raises UserError for another
    ending, without the packages, and for a picture of Chinese words where there is no font for them.
    """
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError("A map ends in {known}, but {path} does not.", code=USAGE, known=known, path=path)
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("Maps of words need matplotlib: pip install 'bimo[words]'")
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    picture = path.suffix.lower() == ".png"
    there = {font.name for font in font_manager.fontManager.ttflist}
    chinese = [font for font in FONTS if font in there][:1]
    if picture and not chinese and re.search(f"[{HAN}]", "".join(words)):
        raise UserError(
            "There is no font with Chinese characters here. Write an .svg, which uses the reader's fonts, or install "
            "one (on Debian: apt install fonts-noto-cjk)."
        )
    places = lay_out(vectors, seed=seed)
    # In a drawing words stay words: they can be searched for, and the reader's fonts show them.
    style: Any = {"font.family": ["DejaVu Sans", *chinese], "svg.fonttype": "none", "svg.hashsalt": "bimo"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Where this machine has no font for a word, its width is a guess, and the reader's font shows it all the same.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(INCHES, INCHES), dpi=DOTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.scatter(places[:, 0], places[:, 1], s=6, color="#b5462f", linewidths=0)
        shown = _label(figure, axes, words, places)
        with replacing(path) as part:
            kind = path.suffix[1:].lower()
            figure.savefig(part, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return shown


def _label(figure: Any, axes: Any, words: Sequence[str], places: np.ndarray) -> int:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    taken: list[Any] = []
    for word, place in zip(words, places, strict=True):
        label = axes.annotate(
            word, place, xytext=(3, 2), textcoords="offset points", fontsize=8, color="#222222", parse_math=False
        )
        box = label.get_window_extent(canvas.get_renderer())
        if any(box.overlaps(other) for other in taken):
            label.remove()
        else:
            taken.append(box)
    return len(taken)
