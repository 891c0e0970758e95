"""Write the verdicts of a reproduction into the table of README.md: python results/reproduce/table.py FOLDER."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

README = Path(__file__).with_name("README.md")


def row(claim: dict) -> str:
    found = "; ".join(decision["found"] or "–" for decision in claim["decisions"])
    return f"| `{claim['claim']}` | {claim['title']} | {found} | {claim['verdict']} |"


claims = json.loads((Path(sys.argv[1]) / "claims.json").read_text())["claims"]
table = "\n".join(["| claim | what it says | found | verdict |", "|---|---|---|---|", *map(row, claims)])
README.write_text(re.sub(r"\| claim \|.*?(?=\n\n)", lambda _: table, README.read_text(), flags=re.DOTALL))
