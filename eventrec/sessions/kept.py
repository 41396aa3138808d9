"""What `Sessions` keeps of devices and profiles, as msgpack: arrays whose members never change their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.errors import PauseError
from eventrec.sessions.session import Session

if TYPE_CHECKING:
    from eventrec.sessions.emitted import OpenSession

FORMAT: Final = 1


class DeviceState(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a device: the session that it is in, and one of an earlier time that late events are of."""

    format: int
    current: Session
    late: Session | None = None


class ProfileState(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a known profile: where it is, for events that have no device, as those of servers."""

    format: int
    device: str
    session_id: str
    created: int
    ended: int
    path: str
    origin: str
    referrer: list[str]


def profile_state(of: OpenSession) -> ProfileState:
    """Where the profile is, whose session this is."""
    session = of.session
    return ProfileState(
        FORMAT,
        of.device,
        of.text_id,
        session.created,
        session.ended,
        session.exit_path,
        session.exit_origin,
        session.referrer,
    )


def decode_state(key: str, kept: bytes) -> DeviceState | ProfileState:
    """What is kept under `key`: of a device where that begins with "d", else of a profile.

    Raises:
        PauseError: It is not that, or of another format.
    """
    try:
        state: DeviceState | ProfileState = (_device if key[0] == "d" else _profile)(kept)
    except Exception as exc:
        raise PauseError(f"what is kept under {key!r:.80} is not the state of sessions: {exc}") from exc
    if state.format != FORMAT:
        raise PauseError(f"what is kept under {key!r:.80} has format {state.format}; this eventrec reads {FORMAT}")
    return state


encode_state: Final = msgspec.msgpack.Encoder().encode
_device: Final = msgspec.msgpack.Decoder(DeviceState).decode
_profile: Final = msgspec.msgpack.Decoder(ProfileState).decode
