"""The page of claims that were put to the test: one table of verdicts, and a section for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpisqueeze.quantities import counted
from mpisqueeze.report.html.blocks import Block, Cell, Page, Paragraph, Section, Table, Verdict


@dataclass(frozen=True)
class Decision:
    """What a claim stands or falls by.

    Attributes:
        text: in words.
        found: the numbers that decide, such as `0.016 ≤ 0.05`.
        holds: None where it was not tested.
    """

    text: str
    found: str
    holds: bool | None


@dataclass(frozen=True)
class Claim:
    """A claim and what came of it.

    Attributes:
        name: short, and its own on the page.
        title, says: the claim, in a line and in full.
        verdict: `PASS`, `FAIL` or `SKIPPED`.
        decisions: all of them hold where it passed.
        reason: why it was skipped, or failed besides; empty for none.
        source: where it is from.
        blocks: what is to be seen besides: text, tables, plots.
    """

    name: str
    title: str
    says: str
    verdict: str
    decisions: Sequence[Decision]
    reason: str = ""
    source: str = ""
    blocks: Sequence[Block] = field(default_factory=list)


def claims_page(title: str, lead: str, claims: Sequence[Claim], after: Sequence[Section] = ()) -> Page:
    """A page of claims with their verdicts, followed by sections on what they have in common."""
    counts = {verdict: sum(claim.verdict == verdict for claim in claims) for verdict in ("PASS", "FAIL", "SKIPPED")}
    summary = f"{counts['PASS']} of {counted(len(claims), 'claim')} hold."
    summary += f" {counts['FAIL']} {'does' if counts['FAIL'] == 1 else 'do'} not." if counts["FAIL"] else ""
    summary += f" {counts['SKIPPED']} could not be tested here." if counts["SKIPPED"] else ""
    rows: list[list[Cell | str]] = [
        [Cell(claim.name, link=claim.name), Cell("", verdict=claim.verdict), claim.title, _deciding(claim)]
        for claim in claims
    ]
    table = Table(["claim", "verdict", "what it says", "what decides"], rows, left=(0, 1, 2, 3))
    badge = f"{counts['FAIL']} of {len(claims)} fail" if counts["FAIL"] else ""
    sections = [Section(claim.name, _blocks(claim)) for claim in claims]
    return Page(title, lead, [Section("Verdicts", [Paragraph(summary), table]), *sections, *after], badge)


def _deciding(claim: Claim) -> str:
    """The first decision that does not hold, or else the first one, with how many there are besides."""
    failed = [decision for decision in claim.decisions if decision.holds is False]
    if claim.verdict == "SKIPPED" or not claim.decisions:
        return claim.reason or "—"
    first = (failed or list(claim.decisions))[0]
    others = len(claim.decisions) - 1
    return first.found + (f"; {counted(others, 'other')} below" if others else "")


def _blocks(claim: Claim) -> list[Block]:
    blocks: list[Block] = [Verdict(claim.verdict, claim.title), Paragraph(claim.says)]
    if claim.reason:
        blocks.append(Paragraph(claim.reason, "note" if claim.verdict == "SKIPPED" else "warning"))
    outcomes = {True: "holds", False: "does not hold", None: "not tested"}
    rows: list[list[Cell | str]] = [
        [decision.text, decision.found, Cell(outcomes[decision.holds], best=decision.holds is False)]
        for decision in claim.decisions
    ]
    blocks.append(Table(["what decides", "found", "outcome"], rows, left=(0, 1, 2)))
    blocks += claim.blocks
    if claim.source:
        blocks.append(Paragraph(f"Source: {claim.source}", "note"))
    return blocks
