"""What a browser tells of a visit. Field names are those that sessions look for; types are what a dashboard counts."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

from eventrec import EventModel, Timestamp


class WebEvent(EventModel, table="events"):
    """Something that happened on a page. A visitor who is known has a profile; a device is a browser."""

    at: Annotated[datetime | None, Timestamp()] = None
    project_id: str
    device_id: str
    profile_id: str = ""
    path: str
    origin: str = "https://shop.example"
    referrer: str = ""
    referrer_name: str = ""
    referrer_type: str = ""
    country: str = ""
    city: str = ""
    os: str = ""
    browser: str = ""
    device: str = "desktop"
    revenue: int = Field(default=0, ge=0)
    properties: dict[str, str] = Field(default_factory=dict)


class ScreenView(WebEvent):
    """A page is shown."""


class AddToCart(WebEvent):
    """Something goes into the cart."""


class Purchase(WebEvent):
    """An order is paid: `revenue` is in cents."""


class SignUp(WebEvent):
    """A visitor becomes a profile."""


class Identify(WebEvent):
    """A visitor says who it is: what their profile has of them."""

    first_name: str = ""
    last_name: str = ""
    email: str = ""
    groups: list[str] = Field(default_factory=list)


class SessionStart(WebEvent):
    """Made by the relay: 100 ms before the first event of a session."""


class SessionEnd(WebEvent):
    """Made by the relay: a second after the last event of a session. `properties.__bounce`: it had one view."""

    duration: int = 0


class Session(EventModel, table="sessions"):
    """Made by the relay: a version of a session, or with the sign -1 one that is taken back."""

    project_id: str
    device_id: str
    entry_path: str
    exit_path: str
    duration: int
    is_bounce: bool
    sign: int
    version: int


class Profile(EventModel, table="profiles"):
    """Made by the relay: what is known of a visitor, as of `version`; the highest one of a profile counts."""

    id: str
    project_id: str
    is_external: bool
    first_name: str
    last_name: str
    email: str
    avatar: str
    properties: dict[str, str]
    groups: list[str]
    created_at: datetime
    last_seen_at: datetime
    version: int


EVENTS: Final = (ScreenView, AddToCart, Purchase, SignUp, Identify)
MADE: Final = (SessionStart, SessionEnd, Session, Profile)
