"""README and documentation: what they link to is there, what they show works."""

import ast
import doctest
import importlib
import re
import shlex
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer.main

from zopde.cli.app import app
from zopde.studies.classify import ClassificationConfig
from zopde.studies.correct import CorrectionConfig
from zopde.studies.defend import load_defence
from zopde.studies.settings import as_tree

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\)")
DEFINITION = re.compile(r"^\[[^\]^]+\]:\s*(\S+)", re.MULTILINE)
LOCAL = ("http://localhost", "http://127.0.0.1", "mailto:")

each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def blocks(path, *kinds):
    """The code blocks of some languages."""
    for match in FENCE.finditer(path.read_text()):
        words = re.split(r"[\s{]+", match[3].strip())
        if words[0].strip(".}") in kinds:
            yield re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)


def prose(path):
    """Everything else."""
    text = FENCE.sub("", path.read_text())
    return re.sub(r"`[^`\n]*`", "", text)


def slugs(path):
    """The anchors of a page, as GitHub and as MkDocs make them."""
    text = FENCE.sub("", path.read_text())
    found = set(re.findall(r"\{[^}]*#([\w.-]+)[^}]*\}|\bid=[\"']([\w.-]+)", text))
    names = {name for pair in found for name in pair if name}
    seen = {}
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", text, flags=re.MULTILINE):
        words = re.sub(r"\{[^}]*\}\s*$|[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
        plain = re.sub(r"[^\w\s-]", "", words).strip()
        for slug in {re.sub(r"\s", "-", plain), re.sub(r"[-\s]+", "-", plain)}:
            count = seen[slug] = seen.get(slug, -1) + 1
            names |= {f"{slug}-{count}", f"{slug}_{count}"} if count else {slug}
    return names


def wrong_with(target, path, root=ROOT):
    """What is wrong with a link of a page; empty if nothing is."""
    if target.startswith(LOCAL):
        return ""
    parts = urlsplit(target)
    if parts.scheme or target.startswith("//"):
        host = re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.hostname or "")
        return "" if parts.scheme == "https" and host else "no well-formed https address"
    page = path if not parts.path else (path.parent / parts.path).resolve()
    if not page.exists():
        return "no such file"
    if root not in page.parents and page != root:
        return "outside the repository"
    if parts.fragment and page.suffix == ".md" and parts.fragment not in slugs(page):
        return "no such heading"
    return ""


@each_document
def test_links_lead_somewhere(path):
    targets = LINK.findall(prose(path)) + DEFINITION.findall(prose(path))
    wrong = {target: said for target in targets if (said := wrong_with(target, path))}
    assert not wrong


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("other.md", "no such file"),
        ("page.md#two-words-1", ""),
        ("#c_d-e", ""),
        ("#nothing", "no such heading"),
        ("#by-hand", ""),
        ("../..", "outside"),
        ("http://example.org", "https"),
        ("https://nodots", "https"),
        ("https://arxiv.org/abs/2310.02025", ""),
    ],
)
def test_a_dead_link_is_found_exact(target, said, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Two words\n## Two words\n### `c_d`-e!\n## Else {#by-hand}\n")
    found = wrong_with(target, page, tmp_path)
    assert (said in found) if said else not found


@each_document
def test_python_blocks_are_python_and_name_what_there_is(path):
    for block in blocks(path, "python", "py"):
        if ">>>" in block:
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zopde"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@each_document
def test_doctests_are_right(path):
    names, parser = {}, doctest.DocTestParser()
    for i, block in enumerate(blocks(path, "python", "py", "pycon")):
        if ">>>" not in block:
            continue
        test = parser.get_doctest(block, names, f"{path.name}, block {i}", str(path), 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        assert runner.run(test, clear_globs=False).failed == 0
        names = test.globs  # a page is read from its top


def command_of(words):
    """The command that a line names, and the words after it."""
    found, rest = typer.main.get_command(app), list(words)
    while rest and hasattr(found, "commands") and rest[0] in found.commands:
        found = found.commands[rest.pop(0)]
    return found, rest


def settings():
    trees = map(as_tree, (CorrectionConfig(), ClassificationConfig(), load_defence()))
    return {f"{table}.{key}" for tree in trees for table, keys in tree.items() for key in keys}


def command_lines(path):
    for block in blocks(path, "", "sh", "bash", "console", "shell"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for part in re.split(r"&&|;|\|", line.partition(" #")[0]):
                if re.match(r"\s*\$?\s*zopde\s", part):
                    yield shlex.split(part.strip().lstrip("$ "))[1:]


@each_document
def test_command_lines_name_commands_options_and_settings_there_are(path):
    for words in command_lines(path):
        command, rest = command_of(words)
        if not words or words[0].startswith("-"):
            continue
        assert not hasattr(command, "commands") or "--help" in rest, f"no command {words}"
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
        for i, word in enumerate(rest):
            if word.startswith("--"):
                assert word.partition("=")[0] in {*known, "--help"}, f"{word} of {words}"
            if word == "--set" and words[0] != "serve":
                key = ".".join(rest[i + 1].partition("=")[0].split(".")[:2])
                assert key in settings(), f"{key} of {words}"
