"""The methods' known behaviour on `digits` with eight ranks: the claims that the README and results/ show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Finished

pytestmark = pytest.mark.slow


def test_gossip_does_what_the_talks_say(mpisqueeze_run: Callable[..., Finished]) -> None:
    pairs = [
        "sgd",
        "dpsgd",
        "dcd/uniform:8",
        "dpsgd-naive/uniform:2,bucket=0",
        "dcd/qsgd:4,bucket=0",
        "deepsqueeze/uniform:2,bucket=0",
        "choco/uniform:2,bucket=0",
        "doublesqueeze/onebit",
    ]
    finished = mpisqueeze_run(8, "compare", *pairs, "--epochs", "20", "--json", "-").well()
    sgd, dpsgd, dcd, naive, coarse, deepsqueeze, choco, doublesqueeze = finished.json
    assert abs(dpsgd["test_accuracy"] - sgd["test_accuracy"]) <= 0.02
    assert abs(dcd["test_accuracy"] - dpsgd["test_accuracy"]) <= 0.02
    assert abs(dcd["smoothed_loss"] - dpsgd["smoothed_loss"]) <= 0.25 * dpsgd["smoothed_loss"]
    assert naive["status"] == "diverged" or naive["test_accuracy"] < dpsgd["test_accuracy"] - 0.1
    assert coarse["status"] == "diverged"
    assert any("Theorem 1" in text for text in coarse["warnings"])
    for squeezed in (deepsqueeze, choco, doublesqueeze):
        assert squeezed["status"] == "ok"
        assert squeezed["test_accuracy"] > 0.94
    assert deepsqueeze["bytes_sent"] * 15 < dpsgd["bytes_sent"]
    assert "RuntimeWarning" not in finished.err
