"""Makes docs/board.png, the README's picture of the board, from the leaderboard folder of a demo.

    python docs/make_screenshot.py leaderboard docs/board.png

It needs playwright (in the `dev` extra) and a Chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1240, 860


def main(board: str, png: str) -> None:
    """Writes a picture of the first screen of BOARD/index.html to PNG."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((Path(board) / "index.html").absolute().as_uri())
        page.screenshot(path=png)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
