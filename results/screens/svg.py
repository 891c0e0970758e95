"""Draw what a terminal showed as an SVG: `tmux capture-pane -e -p | python results/screens/svg.py TITLE FILE.svg`."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    title, path = sys.argv[1:]
    text = sys.stdin.read().rstrip()
    width = max(Text.from_ansi(line).cell_len for line in text.splitlines()) + 1
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    for line in text.splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ignore")
    console.save_svg(path, title=title)


if __name__ == "__main__":
    main()
