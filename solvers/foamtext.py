"""OpenFOAM's files by their grammar: one reader for fields, meshes and dictionaries."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np
from numpy import ndarray

COMPONENTS = {"scalar": 1, "vector": 3, "sphericalTensor": 1, "symmTensor": 6, "tensor": 9}
_LIST = re.compile(rf"List<({'|'.join(COMPONENTS)}|label)>")
# Comments and bytes of any encoding: a file is read as Latin-1, where each byte is a character.
_BLANK = re.compile(r"(?:[ \t\r\n\f\v]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TOKEN = re.compile(
    r"""
    "(?:[^"\\\n]|\\.)*" | \#\{.*?\#\}                         # a string, verbatim code
    | \$\{(?:[^{}]|\{[^{}]*\})*\} | [$][^\s"';(){}\[\]]*      # a macro
    | \#\w*                                                   # a directive
    | [-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)? (?=[\s"'/;(){}\[\]]|$)
    | [;(){}\[\]] | /(?!\*)
    | (?P<word> [^\s"'/;(){}\[\]$\#][^\s"'/;(){}\[\]]* )
    """,
    re.DOTALL | re.VERBOSE | re.ASCII,
)
_MORE = re.compile(r"[^\s\"'/;(){}\[\]]+", re.ASCII)  # of a word that holds brackets: div(phi,U)
_COUNT = re.compile(r"\d*", re.ASCII)
_INCLUDES = ("#include", "#sinclude", "#includeIfPresent", "#includeEtc", "#sincludeEtc")
_DEPTH = 8  # of files that include each other
_MACRO = re.compile(r"[$]:?(\w+)|[$]\{:?(\w+)\}", re.ASCII)
_OPEN = {"(": ")", "{": "}"}


class FoamSyntaxError(Exception):
    """A file that breaks the grammar, or uses of it what is not read here; in one line."""


@final
@dataclass(frozen=True, eq=False)
class Token:
    """A word, number, string, macro, bracket or semicolon, or a whole `List<...>` of numbers."""

    text: str
    start: int  # where it lies in the file
    end: int
    first: bool = False  # of its line
    numbers: ndarray | None = None  # (entry, component) of a list


@final
@dataclass(frozen=True)
class Entry:
    """What a dictionary says of one keyword; a directive such as #include is an entry, too."""

    key: str
    tokens: tuple[Token, ...]  # without the semicolon at the end

    @property
    def entries(self) -> list[Entry]:
        """Those of a dictionary in braces."""
        return list(_entries(self.tokens[1:-1]))


@final
@dataclass(frozen=True)
class FoamText:
    """A file: its text, each byte a character, and its entries in their order, header first."""

    text: str
    entries: list[Entry]
    header: dict[str, str] = field(default_factory=dict)
    body: int = 0  # where the header's last brace lies

    @classmethod
    def of(cls, content: bytes) -> FoamText:
        """What a file holds."""
        text = content.decode("latin-1")
        head: list[Token] = []
        for token in _tokens(text, 0):
            head.append(token)
            braces = [t.text for t in head if t.text in ("{", "}")]
            if head[0].text != "FoamFile" or (
                token.text == "}" and braces.count("{") == len(braces) / 2
            ):
                break
        if not head or head[0].text != "FoamFile":
            return cls(text, list(_entries(list(_tokens(text, 0)))))
        first = next(_entries(head))
        header = {e.key: " ".join(t.text.strip('"') for t in e.tokens) for e in first.entries}
        precision = "<f4" if "scalar=32" in header.get("arch", "") else "<f8"
        binary = precision if header.get("format") == "binary" else ""
        rest = list(_tokens(text, head[-1].end, binary))
        return cls(text, [first, *_entries(rest)], header, head[-1].start)

    def last(self, key: str) -> Entry | None:
        """The one that counts of several: the last."""
        return next((entry for entry in reversed(self.entries) if entry.key == key), None)

    def check_last_counts(self) -> None:
        """Require that an entry put behind the others is the one that OpenFOAM takes."""
        for entry in self.entries:
            if entry.key.startswith("#") and entry.key not in _INCLUDES:
                raise FoamSyntaxError(f"{entry.key} between entries, which is not read")


def find(path: Path) -> Path | None:
    """A file, or where there is none, its compressed twin: in the order in which OpenFOAM looks."""
    return next((p for p in (path, path.with_name(f"{path.name}.gz")) if p.is_file()), None)


def content_of(path: Path) -> bytes:
    """The bytes of a file that `find` found, decompressed."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FoamSyntaxError(f"{path.name} cannot be read ({reason})") from error


def put(path: Path, content: bytes) -> None:
    """Write a file of a run's folder in the place of that and of its compressed twin."""
    path.with_name(f"{path.name}.gz").unlink(missing_ok=True)
    path.write_bytes(content)


@final
@dataclass(frozen=True, eq=False)
class Group:
    """What stands between two brackets."""

    parts: list[Token | Group]
    start: int
    end: int


def nested(tokens: Sequence[Token]) -> list[Token | Group]:
    """Groups of groups, as the brackets say; all kinds of them alike."""
    levels: list[list[Token | Group]] = [[]]
    starts = []
    for token in tokens:
        if token.text in _OPEN:
            starts.append(token.start)
            levels.append([])
        elif token.text in _OPEN.values():
            group = Group(levels.pop(), starts.pop(), token.end)
            levels[-1].append(group)
        else:
            levels[-1].append(token)
    return levels[0]


def expanded(path: Path, verbatim: Container[str] = (), depth: int = 0) -> dict[str, list[Token]]:
    """The values by keyword, with what plain macros stand for; others stay as they are.

    A token that a macro stands for lies where the macro does; one of an included file at -1. Macros
    of the keywords `verbatim` stay, as they may look into inner dictionaries.
    """
    known: dict[str, list[Token]] = {}
    for entry in FoamText.of(content_of(path)).entries:
        if entry.key == "#include" and len(entry.tokens) == 1:
            name = entry.tokens[0].text
            included = find(path.parent / name.strip('"'))
            if included is None or depth == _DEPTH:
                raise FoamSyntaxError(f"#include {name}, {'nested' if included else 'not there'}")
            for key, tokens in expanded(included, verbatim, depth + 1).items():
                known[key] = [replace(token, start=-1, end=-1) for token in tokens]
        elif entry.key[0] in "#$":
            raise FoamSyntaxError(f"{entry.key} between entries, which is not read")
        else:
            known[entry.key] = []
            for token in entry.tokens:
                match = _MACRO.fullmatch(token.text)
                name = (match[1] or match[2]) if match and entry.key not in verbatim else ""
                values = known.get(name, [token])
                known[entry.key] += [replace(v, start=token.start, end=token.end) for v in values]
    return known


def _line(text: str, place: int) -> str:
    number = text.count("\n", 0, place) + 1
    return f"line {number}"


def _tokens(text: str, at: int, binary: str = "") -> Iterator[Token]:
    """The tokens from `at` on; `binary` is the type of lists of numbers that are not text."""
    while True:
        start = _skipped(text, at)
        if start == len(text):
            return
        first, match = "\n" in text[at:start], _TOKEN.match(text, start)
        if match is None:
            what = "a comment" if text.startswith("/*", start) else repr(text[start : start + 12])
            raise FoamSyntaxError(f"{_line(text, start)}: {what} that does not end, or is no word")
        at = match.end()
        if _LIST.fullmatch(match[0]):
            numbers, at = _list(text, start, at, binary)
            yield Token(match[0], start, at, first, numbers)
            continue
        if match["word"]:
            at = _word_end(text, at)
        yield Token(text[start:at], start, at, first)


def _skipped(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _word_end(text: str, at: int) -> int:
    """The end of a word: brackets belong to it as long as they are pairs."""
    depth = 0
    while at < len(text):
        if more := _MORE.match(text, at):
            at = more.end()
        elif text[at] == "(" or (text[at] == ")" and depth):
            depth += 1 if text[at] == "(" else -1
            at += 1
        else:
            break
    return at


def _list(text: str, start: int, at: int, binary: str) -> tuple[ndarray, int]:
    """The numbers of a list whose type ends at `at`, and where it ends."""
    name, first = text[start + len("List<") : at - 1], _skipped(text, at)
    counted = _COUNT.match(text, first)
    digits = counted[0] if counted else ""
    opening = _skipped(text, first + len(digits))
    mark, components = text[opening : opening + 1], COMPONENTS.get(name, 1)
    what = f"{_line(text, start)}: List<{name}> of {digits or 'unknown size'}"
    if digits and not int(digits) and mark not in ("(", "{"):
        return np.zeros((0, components)), first + len(digits)
    if mark not in ("(", "{"):
        raise FoamSyntaxError(f"{what} has no brackets")
    if binary and mark == "(" and digits and int(digits):
        dtype = np.dtype("<i4" if name == "label" else binary)
        end = opening + 1 + int(digits) * components * dtype.itemsize
        if text[end : end + 1] != ")":
            raise FoamSyntaxError(f"{what} is short")
        raw = text[opening + 1 : end].encode("latin-1")
        return np.frombuffer(raw, dtype).reshape(-1, components), end + 1
    words, end = _bracketed(text, opening, what)
    try:
        table = np.array([float(word) for word in words]).reshape(-1, components)
    except ValueError:
        raise FoamSyntaxError(f"{what} holds other things than numbers; is it binary?") from None
    if mark == "{" and digits and len(table) == 1:
        table = np.repeat(table, int(digits), axis=0)
    if digits and len(table) != int(digits):
        raise FoamSyntaxError(f"{what} holds {len(table)}")
    return table, end


def _bracketed(text: str, opening: int, what: str) -> tuple[list[str], int]:
    """The words between brackets, at any depth, and where the last bracket ends."""
    words: list[str] = []
    depth = 0
    for token in _tokens(text, opening):
        if token.text in _OPEN or token.text in _OPEN.values():
            depth += 1 if token.text in _OPEN else -1
            if depth == 0:
                return words, token.end
        else:
            words.append(token.text)
    raise FoamSyntaxError(f"{what} is short")


def _entries(tokens: Sequence[Token]) -> Iterator[Entry]:
    """The entries of a dictionary: keyword and value up to a semicolon, or up to a brace."""
    at = 0
    while at < len(tokens):
        key, at = tokens[at], at + 1
        if key.text == ";":
            continue
        if key.text in _OPEN or key.text in _OPEN.values():
            raise FoamSyntaxError(f"a {key.text!r} where a keyword should be")
        end = _end(tokens, at, key.text)
        yield Entry(key.text, tuple(tokens[at:end]))
        at = end


def _end(tokens: Sequence[Token], first: int, key: str) -> int:
    """Where the value of a keyword ends that begins at `first`."""
    closing: list[str] = []
    for at, token in enumerate(tokens[first:], start=first):
        if not closing and (token.text == ";" or (token.first and key.startswith("#"))):
            return at  # a directive ends with its line
        if token.text in _OPEN:
            closing.append(_OPEN[token.text])
        elif token.text in _OPEN.values() and (not closing or closing.pop() != token.text):
            raise FoamSyntaxError(f"the entry {key!r} has a {token.text!r} that closes nothing")
        if not closing and token.text == "}" and tokens[first].text == "{":
            return at + 1
    if not closing and key.startswith("#"):
        return len(tokens)
    raise FoamSyntaxError(f"the entry {key!r} does not end")
