"""The claims of the package hold for it, and fail for each of its mutants that they concern."""

from __future__ import annotations

from pathlib import Path

import mutants
import pytest
from mutants import MUTANTS, Mutant

from mpisqueeze.reproduce.claims import names

NAMED = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@NAMED
def test_mutants_keep_step_with_the_package(tmp_path: Path, mutant: Mutant) -> None:
    """Each edit fits the source once, and what it leaves is Python; claims and test files exist."""
    mutants.copy_package(tmp_path)
    for path in mutants.mutate(tmp_path, mutant):
        compile(path.read_text(), str(path), "exec")
    assert set(mutant.claims) <= set(names())
    assert mutant.claims
    assert all((mutants.HERE / name).is_file() for name in mutant.tests)


@pytest.mark.slow
@pytest.mark.timeout(600)
@NAMED
def test_claims_fail_for_what_is_broken(launcher: object, tmp_path: Path, mutant: Mutant) -> None:
    mutants.mutate(mutants.copy_package(tmp_path), mutant)
    found = mutants.verdicts(tmp_path, mutant.claims)
    assert found == dict.fromkeys(mutant.claims, "FAIL")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_claims_hold_for_the_package(launcher: object, tmp_path: Path) -> None:
    """With the kernels and the one seed that mutants are tried with."""
    claims = sorted({claim for mutant in MUTANTS for claim in mutant.claims})
    found = mutants.verdicts(mutants.copy_package(tmp_path), claims)
    assert found == dict.fromkeys(claims, "PASS")
