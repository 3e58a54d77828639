"""A page in headless Chromium: what its console says, and how wide it becomes."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The page stands in frames of some widths, of which a script around it tells: the page itself may run none.
_MEASURE = """
onload = () => document.body.dataset.found = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
  const page = frame.contentDocument, boxes = [...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
  return {
    width: frame.clientWidth,
    page_width: page.documentElement.scrollWidth,
    plots: boxes.map(box => [box.width, box.height]),
    colours: [getComputedStyle(page.body).color, getComputedStyle(page.body).backgroundColor],
    text_px: Math.min(...[...page.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
  };
}));
"""


def find() -> str | None:
    """Chromium's executable; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def measure(chromium: str, page: str, folder: Path, widths: tuple[int, ...], *, dark: bool = False) -> dict[str, Any]:
    """Opens a page at some widths.

    Returns:
        Under "console" every line of its console, under "frames" for each width what the script above tells.
    """
    frames = "".join(f'<iframe srcdoc="{escape(page)}" width="{width}" height="900"></iframe>' for width in widths)
    around = folder / "around.html"
    style = "<style>iframe { border: 0; display: block }</style>"
    around.write_text(f"<!doctype html>{style}<body>{frames}<script>{_MEASURE}</script></body>", encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", "--virtual-time-budget=5000"]
    command += ["--blink-settings=preferredColorScheme=0"] if dark else []
    ended = subprocess.run([*command, around.as_uri()], capture_output=True, text=True, timeout=120)
    [found] = re.findall(r'<body data-found="([^"]*)"', ended.stdout)
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return {"console": console, "frames": json.loads(unescape(found))}
