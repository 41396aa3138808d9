"""The file with what a user chose for one application: whether it may record, under which id, and what it may know.

    {"analytics_enabled": true, "analytics_id": "any text", "metadata": {"email": "ada@example.org"}}

and `"told": false` as long as the application has not told the user that it records: they have chosen before.

What cannot be read for certain counts as a no: bytes that are not such an object, a name that stands twice, a link, a
directory, a pipe, a file of another user. It is replaced as a whole, with what else stands in it kept. Metadata is read
in Rerun's form too, each value an object with its type: `{"email": {"String": "ada@example.org"}}`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import uuid
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec.consent.locks import is_held, locked
from eventrec.errors import ConsentError
from eventrec.log.disk import DiskStorage
from eventrec.log.segment import replace_file
from eventrec.log.storage import write_all
from eventrec.runtime.logging import described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from eventrec.log.storage import File

Value: TypeAlias = "bool | int | float | str"

_MAX_BYTES: Final = 64 * 1024
_MAX_ID: Final = 200

_ENABLED: Final = "analytics_enabled"
_ID: Final = "analytics_id"
_METADATA: Final = "metadata"
_TOLD: Final = "told"
_TYPES: Final = {"Bool": bool, "Integer": int, "Float": float, "String": str}


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user chose.

    Attributes:
        enabled: Whether the application may record.
        id: Stands for the user; made by chance.
        metadata: What the user lets the application know about them, as an email address.
        is_told: Whether the application has told the user that it records; not in the file where it has.
        others: What else stands in the file.
    """

    enabled: bool = True
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    metadata: Mapping[str, Value] = field(default_factory=dict)
    is_told: bool = True
    others: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        told = {} if self.is_told else {_TOLD: False}
        return {_ENABLED: self.enabled, _ID: self.id, _METADATA: dict(self.metadata), **told, **self.others}


class ChoicesFile:
    """The file at `path`, of any number of processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<ChoicesFile {str(self.path)!r}>"

    def load(self) -> Choices | None:
        """What it says; None: there is no such file.

        Raises:
            ConsentError: It cannot be read for certain.
        """
        try:
            with closing(DiskStorage(self.path.parent)) as directory:
                return _decode(_read(directory, self.path.name))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as exc:
            raise ConsentError(f"{self.path} cannot be read: {_why(exc)}") from exc

    def tell(self, disclose: Callable[[], object], *, then: Callable[[], object] = lambda: None) -> Choices:
        """Note that the user was told, by `disclose`; where there is no such file, make it, with a yes.

        `disclose` is called where it is certain that this can be noted, just before it is; what it raises prevents
        that. What it changes itself, as when the user opts out at once, counts. Where another process has noted it
        meanwhile, it is not called. `then` is called once it is noted, before other processes look. On return it is on
        the disk.

        Raises:
            ConsentError: It cannot be written, or be read, or the disclosure failed.
        """
        with self._locked() as directory:
            found = self.load()
            there = found or Choices(is_told=False)
            if there.is_told:
                return there

            def disclose_and_look() -> None:
                changed = self._told_by(disclose)
                if changed or self.load() != found:
                    raise _ChangedError

            try:
                choices = self._replace(directory, replace(there, is_told=True), before=disclose_and_look)
            except _ChangedError:
                chosen = self.load()
                if chosen is None:
                    raise ConsentError(f"{self.path} was deleted by the disclosure") from None
                choices = self._replace(directory, replace(chosen, is_told=True))
            then()
            return choices

    def is_in_first_run(self) -> bool:
        """Whether the user was told by a process that is still running.

        Raises:
            ConsentError: That is not known.
        """
        try:
            return is_held(self.path)
        except (OSError, ValueError) as exc:
            raise ConsentError(f"{self.path} cannot be read: {_why(exc)}") from exc

    def change(self, *, enabled: bool | None = None, **metadata: Value | None) -> Choices:
        """Say something else in it, and leave the rest. What is None in `metadata` goes out of it.

        What cannot be decoded is replaced by what is said here, under another id: the user has chosen again. Where
        there was no file, or none that could be decoded, the user counts as not told. On return it is on the disk.

        Raises:
            ConsentError: It is not a file of this user's, or cannot be written.
        """
        with self._locked() as directory:
            try:
                choices = _decode(_read(directory, self.path.name))
            except FileNotFoundError:
                choices = Choices(is_told=False)
            except ValueError:
                choices = Choices(enabled=False, is_told=False)
            kept = {**choices.metadata, **metadata}
            choices = replace(
                choices,
                enabled=choices.enabled if enabled is None else enabled,
                metadata={name: value for name, value in kept.items() if value is not None},
            )
            return self._replace(directory, choices)

    def delete(self) -> bool:
        """Delete it, and what writing it has left half done. False: there was none.

        Raises:
            ConsentError: It is not a file of this user's, or cannot be deleted.
        """
        if not self.path.parent.is_dir():
            return False
        with self._locked() as directory:
            try:
                _check_owner(directory, self.path.name)
                directory.delete(self.path.name)
                directory.sync_directory()
            except FileNotFoundError:
                return False
        return True

    def _replace(
        self, directory: DiskStorage, choices: Choices, *, before: Callable[[], object] = lambda: None
    ) -> Choices:
        content = json.dumps(choices.to_dict(), indent=2).encode() + b"\n"

        def fill(file: File) -> None:
            write_all(file, content, 0)
            before()

        replace_file(directory, self.path.name, fill)
        return choices

    def _told_by(self, disclose: Callable[[], object]) -> bool:
        """Call `disclose`, while the lock is held; whether it has changed the file by way of this class."""
        here = _Disclosing(self.path)
        before = _disclosing.set(here)
        try:
            disclose()
        except Exception as exc:
            raise ConsentError(f"the disclosure failed: {described(exc)}") from exc
        finally:
            _disclosing.reset(before)
        return here.has_changed

    @contextmanager
    def _locked(self) -> Iterator[DiskStorage]:
        """Its directory, made where it is not there, while no other process changes the file.

        Raises:
            ConsentError: For whatever the system refuses inside.
        """
        around = _disclosing.get()
        try:
            if around is not None and around.path == self.path:
                around.has_changed = True
                with closing(DiskStorage(self.path.parent)) as directory:
                    yield directory
                return
            _check_place(self.path.parent)
            with closing(DiskStorage(self.path.parent, create=True)) as directory, locked(self.path.parent):
                left = re.compile(re.escape(self.path.name) + r"\.\d+-\d+\.tmp", re.ASCII)
                for name in directory.list():
                    if left.fullmatch(name):  # Of a process that died: who writes holds the lock.
                        directory.delete(name)
                yield directory
        except (OSError, ValueError) as exc:
            raise ConsentError(f"{self.path} cannot be written: {_why(exc)}") from exc


@dataclass(slots=True)
class _Disclosing:
    """A disclosure that runs here, under the lock of the file at `path`."""

    path: Path
    has_changed: bool = False


_disclosing: Final[ContextVar[_Disclosing | None]] = ContextVar("eventrec_disclosing", default=None)


class _ChangedError(Exception):
    """The file was changed by what is called while it is replaced."""


def _read(directory: DiskStorage, name: str) -> bytes:
    _check_owner(directory, name)
    with closing(directory.open(name, "read")) as file:
        content = file.read(0, _MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    return content


def _check_owner(directory: DiskStorage, name: str) -> None:
    """Raises PermissionError or OSError where it is not a file of this user's alone."""
    found = directory.stat_of(name)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", name)
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", name)


def _check_place(directory: Path) -> None:
    """Raises PermissionError where root would leave files that the user whose place this is could not change."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if getattr(os, "geteuid", lambda: -1)() == 0 and there.stat().st_uid != 0:
        raise PermissionError(errno.EPERM, "its directory belongs to another user", str(there))


def _decode(content: bytes) -> Choices:
    """Raises ValueError where it is anything else than a user's choices, or could not be written again."""
    try:
        document = json.loads(content.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError as exc:
        raise ValueError("it is nested too deep") from exc
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - the bytes are wrong, not the caller
    enabled, id_, metadata = (document.pop(name, None) for name in (_ENABLED, _ID, _METADATA))
    is_told = document.pop(_TOLD, True)
    if not isinstance(is_told, bool):
        raise ValueError(f"{_TOLD} is not true or false")  # noqa: TRY004 - likewise
    if not isinstance(enabled, bool):
        raise ValueError(f"{_ENABLED} is not true or false")  # noqa: TRY004 - likewise
    if not isinstance(id_, str) or not 0 < len(id_) <= _MAX_ID:
        raise ValueError(f"{_ID} is not a text of 1 to {_MAX_ID} characters")
    if not isinstance(metadata, dict | None):
        raise ValueError(f"{_METADATA} is not an object")  # noqa: TRY004 - likewise
    known = {name: _value(value) for name, value in (metadata or {}).items()}
    choices = Choices(enabled, id_, known, is_told, document)
    json.dumps(choices.to_dict(), ensure_ascii=False, allow_nan=False).encode()
    return choices


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name stands twice")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _value(given: object) -> Value:
    """A value of the metadata, plain or in Rerun's form."""
    if isinstance(given, dict) and len(given) == 1:
        ((kind, value),) = given.items()
        if kind in _TYPES and type(value) is _TYPES[kind]:
            return _value(value)
    if isinstance(given, bool | int | float | str):
        return given
    raise ValueError(f"a value of {_METADATA} is not a text, a number, true or false")


def _why(exc: Exception) -> str:
    return (exc.strerror or str(exc)) if isinstance(exc, OSError) else str(exc)
