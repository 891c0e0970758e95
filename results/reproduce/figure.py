"""The chart of one claim as a file: python results/reproduce/figure.py REPRODUCTION CLAIM FILE.svg"""

from __future__ import annotations

import sys
from pathlib import Path

from mpisqueeze.record.claims import claim_logs, read_claims
from mpisqueeze.report.claim_charts import claim_chart
from mpisqueeze.report.plot import draw

folder, name, target = sys.argv[1:]
claim = next(claim for claim in read_claims(Path(folder))["claims"] if claim["claim"] == name)
chart = claim_chart(claim, claim_logs(Path(folder), claim))
assert chart is not None, f"{name} has no figure"
draw([chart], target)
