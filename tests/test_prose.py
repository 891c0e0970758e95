"""Docstrings begin with a head, and no two classes share a name."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import mpisqueeze

PACKAGE = Path(mpisqueeze.__file__).parent
HEADLESS = {"As", "By", "From", "How", "In", "Not", "Of", "Those", "What", "When", "Where", "Whether", "Which", "Who"}
FILES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
NODES = {name: list(ast.walk(ast.parse(text))) for name, text in FILES.items()}


def test_docstrings_begin_with_a_head() -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    texts = {ast.get_docstring(node) for name in FILES for node in NODES[name] if isinstance(node, documented)}
    assert not [text for text in texts if text and text.split()[0].strip(",:") in HEADLESS]


def test_a_name_is_that_of_one_class() -> None:
    classes = {name: {node.name for node in NODES[name] if isinstance(node, ast.ClassDef)} for name in FILES}
    count = Counter(name for names in classes.values() for name in names)
    assert not [name for file in FILES for name in classes[file] if count[name] > 1]
