"""Secrets in untyped values, found by the names of their keys and by what they look like."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from eventrec.records.mark_rules import Leaf
from eventrec.records.marked import item_rules, member_rule
from eventrec.records.marks import REDACTED
from eventrec.rules import DEFAULT_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from eventrec.records.mark_rules import Rule
    from eventrec.rules import Redaction

_MAX_KEYS: Final = 10_000
"""Keys remembered at once."""


class Keys:
    """Names of keys; `*` stands for any characters. Case, `_`, `-`, `.` and spaces do not count."""

    def __init__(self, patterns: Iterable[str]) -> None:
        said = sorted({".*".join(map(re.escape, map(squashed, pattern.split("*")))) for pattern in patterns})
        self._is_among = re.compile("|".join(said), re.DOTALL).fullmatch if said else lambda _: None
        self._known: dict[str, bool] = {}

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str):
            return False
        known = self._known.get(key)
        if known is None:
            known = self._is_among(squashed(key)) is not None
            if len(self._known) >= _MAX_KEYS:
                self._known.clear()
            self._known[key] = known
        return known


def squashed(key: str) -> str:
    """`key` without what does not count."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", key).casefold())


_SEPARATORS: Final = re.compile(r"[\s_.\-]+")


class Redactor:
    """Replaces secrets as `redaction` says. Its methods raise RecursionError where a value is nested too deep."""

    def __init__(self, redaction: Redaction) -> None:
        self.keys = Keys((*(DEFAULT_KEYS if redaction.defaults else ()), *redaction.keys))
        looks = _LOOKS if redaction.defaults else ()
        patterns = [*looks, *(("", re.compile(pattern)) for pattern in redaction.patterns)]
        self._patterns = [(literal, pattern, "secret" in pattern.groupindex) for literal, pattern in patterns]
        self._has_defaults, self._has_cards = redaction.defaults, redaction.cards
        self._plain_keys: set[str] = set()
        """Keys that do not look like a secret."""

    def value(self, value: Any, declared: Rule | None = None) -> Any:
        """`value`, of plain JSON values, without its secrets. What is marked, as `declared` says, stays as it is."""
        kind = value.__class__
        if isinstance(declared, Leaf):
            return value
        if kind is str:
            return self.text(value)
        if kind is dict:
            return self._object(value, declared)
        if kind is list:
            return self._items(value, declared)
        return value

    def text(self, value: str) -> str:
        """`value` without what looks like a secret."""
        lower = value.lower()
        for literal, pattern, has_group in self._patterns:
            if literal in lower:
                value = pattern.sub(_without_group if has_group else REDACTED, value)
        if self._has_defaults and ("=" in value or ":" in value):
            if "{" in value or "[" in value:
                value = self._without_structures(value)
            value = _ASSIGNED.sub(self._assigned, value)
        if self._has_cards and _MANY_DIGITS.search(value):
            value = _DIGITS.sub(_without_cards, value)
        return value

    def _object(self, members: dict[str, Any], declared: Rule | None) -> dict[str, Any]:
        redacted: dict[str, Any] = {}
        rule_of_member = member_rule(declared)
        # The forms in which headers travel.
        named = members.get("name", members.get("key")) if len(members) <= _MEMBERS_OF_A_PAIR else None
        is_pair = isinstance(named, str) and named in self.keys
        for key, part in members.items():
            rule = rule_of_member(key)
            is_secret = (key in self.keys or (is_pair and key == "value")) and not isinstance(rule, Leaf)
            shown = key if isinstance(rule, Leaf) else self._free_name(key, redacted, members)
            redacted[shown] = REDACTED if is_secret and part is not None else self.value(part, rule)
        return redacted

    def _free_name(self, key: str, taken: dict[str, Any], members: dict[str, Any]) -> str:
        if key in self._plain_keys:
            return key
        shown = name = self.text(key)
        if shown == key:
            if len(self._plain_keys) >= _MAX_KEYS:
                self._plain_keys.clear()
            self._plain_keys.add(key)
        number = 1
        while name != key and (name in taken or name in members):
            number += 1
            name = f"{shown} {number}"
        return name

    def _items(self, items: list[Any], declared: Rule | None) -> list[Any]:
        if len(items) == _PAIR and isinstance(items[0], str) and items[0] in self.keys and items[1] is not None:
            return [items[0], REDACTED]
        if declared is None:
            return [self.value(item) for item in items]
        return list(map(self.value, items, item_rules(declared, len(items))))

    def _without_structures(self, value: str) -> str:
        parts, done = [], 0
        for found in _ASSIGNED_STRUCTURE.finditer(value):
            if found.start() >= done and found["key"] in self.keys:
                parts += [value[done : found.end()], REDACTED]
                done = _end_of_structure(value, found.end())
        return "".join([*parts, value[done:]]) if parts else value

    def _assigned(self, found: re.Match[str]) -> str:
        if found["key"] not in self.keys:
            return found[0]
        value = found["value"]
        quote = value[0] if len(value) > 1 and value[0] in "\"'" and value[0] == value[-1] else ""
        return f"{found[0][: found.start('value') - found.start()]}{quote}{REDACTED}{quote}"


_PAIR: Final = 2
_MEMBERS_OF_A_PAIR: Final = 4


def _without_group(found: re.Match[str]) -> str:
    start, end = found.span("secret")
    if start < 0:  # The group is not in this match.
        return REDACTED
    return found.string[found.start() : start] + REDACTED + found.string[end : found.end()]


_NOT_DONE: Final = r"(?!(?:(?:bearer|basic)\s+)?\[redacted\])"
_LOOKS: Final = (
    (
        "private key-----",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    ),
    ("bearer", re.compile(r"\bbearer\s+(?P<secret>[A-Za-z0-9._~+/=-]{6,})", re.IGNORECASE)),
    ("basic", re.compile(r"\bbasic\s+(?P<secret>[A-Za-z0-9._~+/=-]{6,})", re.IGNORECASE)),
    # The whole of a header, for what it says has many forms; after those above, which leave a word standing.
    ("authorization", re.compile(rf"\bauthorization\s*:[ \t]*{_NOT_DONE}(?P<secret>[^\s'\"][^\r\n']*)", re.IGNORECASE)),
    ("cookie", re.compile(rf"\bcookie2?\s*:[ \t]*{_NOT_DONE}(?P<secret>[^\s'\"][^\r\n']*)", re.IGNORECASE)),
    ("eyj", re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)*")),
    ("://", re.compile(r"://[^\s/?#:@]{0,256}:(?P<secret>[^\s/?#]{1,1024})(?=@)")),
)
"""What is a secret by its looks: a part that stands in each, in small letters, and the whole."""

_ASSIGNED: Final = re.compile(
    r"""(?<![\w.\-])(?P<key>[\w.\-]{1,64})\\*["']?\s{0,8}[=:]\s{0,8}"""
    r"""(?P<value>\\*"(?:[^"\\]|\\.)*"?|\\*'(?:[^'\\]|\\.)*'?|[^\s,;&"'<>{}()\[\]]+)"""
)
"""A key and its value: in a URL's query, a header, a connection string, JSON or Python's literals inside a text."""

_ASSIGNED_STRUCTURE: Final = re.compile(r"""(?<![\w.\-])(?P<key>[\w.\-]{1,64})\\*["']?\s{0,8}[=:]\s{0,8}(?=[{\[])""")
"""A key whose value is an object or a list."""
_BRACKETS: Final = re.compile(
    r"""[{}\[\]]|"(?:[^"\\]|\\.)*(?:"|\Z)|'(?:[^'\\]|\\.)*(?:'|\Z)|\\+"(?:(?!\\+").)*(?:\\+"|\Z)""", re.DOTALL
)
"""A bracket, or a text in which brackets do not count: of JSON, of Python, of JSON inside a text."""


def _end_of_structure(text: str, start: int) -> int:
    """Behind the object or list that begins at `start`; the end of the text where it is not closed."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return len(text)


_MANY_DIGITS: Final = re.compile(r"\d(?:[ \u00a0\-]?\d){12}", re.ASCII)
_DIGITS: Final = re.compile(r"(?<!\d)\d{2,}(?:[ \u00a0\-]\d{2,})*", re.ASCII)
"""Where a card number may be: digits, perhaps in groups of two or more."""


def _without_cards(found: re.Match[str]) -> str:
    text, parts, done = found[0], [], 0
    for start, end in _cards(text):
        parts += [text[done:start], REDACTED]
        done = end
    return "".join([*parts, text[done:]])


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Where card numbers stand in `text`, which is digits in groups: each one is of whole groups."""
    if len(text) < _SHORTEST:
        return
    groups = [(found[0], found.start(), found.end()) for found in re.finditer("[0-9]+", text)]
    first = 0
    while first < len(groups):
        digits, end, following = "", None, first + 1
        for number in range(first, len(groups)):
            digits += groups[number][0]
            if len(digits) > _LONGEST or not "2" <= digits[0] <= "6":
                break
            if is_card_number(digits):
                end, following = groups[number][2], number + 1
        if end is not None:
            yield groups[first][1], end
        first = following


_SHORTEST: Final = 13
_LONGEST: Final = 19


def is_card_number(digits: str) -> bool:
    """Whether `digits` begin and end as a card number does: a network's first digits, and Luhn's check digit."""
    if not _SHORTEST <= len(digits) <= _LONGEST:
        return False
    if not ("3" <= digits[0] <= "6" or "2221" <= digits[:4] <= "2720"):
        return False
    total = sum(digits[-1::-2].encode()) + sum(digits[-2::-2].translate(_DOUBLED).encode())
    return (total - len(digits) * ord("0")) % 10 == 0


_DOUBLED: Final = str.maketrans("0123456789", "0246813579")
"""The digits of twice each digit, added."""
