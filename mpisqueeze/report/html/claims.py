"""The page of claims that were put to the test: one table of verdicts, and a section for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpisqueeze.report.html.blocks import Block, Cell, Page, Paragraph, Section, Table, Verdict


@dataclass(frozen=True)
class Claim:
    """A claim and what came of it.

    Attributes:
        name: short, and its own on the page.
        says: the claim, in a sentence.
        number: the number that decides, with what was asked of it, in words.
        blocks: what is to be seen: text, tables, plots.
    """

    name: str
    says: str
    passed: bool
    number: str
    blocks: Sequence[Block] = field(default_factory=list)


def claims_page(title: str, lead: str, claims: Sequence[Claim], after: Sequence[Section] = ()) -> Page:
    """A page of claims with their verdicts, followed by sections on what they have in common."""
    failed = sum(not claim.passed for claim in claims)
    rows: list[list[Cell | str]] = [
        [Cell(claim.name, link=claim.name), Cell("", verdict=claim.passed), claim.says, claim.number]
        for claim in claims
    ]
    table = Table(["claim", "verdict", "what it says", "the number that decides"], rows, left=(0, 1, 2, 3))
    summary = f"{len(claims) - failed} of {len(claims)} claims hold."
    sections = [
        Section(claim.name, [Paragraph(claim.says), Verdict(claim.passed, claim.number), *claim.blocks])
        for claim in claims
    ]
    return Page(
        title,
        lead,
        [Section("Verdicts", [Paragraph(summary), table]), *sections, *after],
        f"{failed} of {len(claims)} fail" if failed else "",
    )
