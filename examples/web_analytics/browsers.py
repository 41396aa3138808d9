"""Made-up visitors of a shop: who comes when, and what they look at, in the order in which it happens."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any, Final

from web_events import AddToCart, Identify, Purchase, ScreenView, SignUp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from web_events import WebEvent

PROJECT: Final = "shop"

PAGES: Final = ("/", "/shirts", "/shoes", "/shoes/red", "/shirts/blue", "/about", "/cart", "/checkout")
_NEXT: Final = {
    "/": ("/shirts", "/shoes", "/shoes", "/about"),
    "/shirts": ("/shirts/blue", "/shoes", "/"),
    "/shoes": ("/shoes/red", "/shoes/red", "/"),
    "/shoes/red": ("/cart", "/shoes"),
    "/shirts/blue": ("/cart", "/shirts"),
    "/about": ("/",),
    "/cart": ("/checkout", "/shoes"),
    "/checkout": ("/",),
}
_FROM: Final = (
    ("", "", ""),
    ("https://search.example/", "Search", "search"),
    ("https://news.example/a", "News", "social"),
)
_WHERE: Final = (("SE", "Stockholm"), ("DE", "Berlin"), ("FR", "Lyon"), ("US", "Boston"), ("IN", "Pune"))
_FIRST: Final = ("Ada", "Bo", "Chen", "Dina", "Emil", "Fatima")
_LAST: Final = ("Berg", "Costa", "Diallo", "Ek", "Fischer", "Gupta")
_WITH: Final = (
    ("macOS", "Safari", "desktop"),
    ("Windows", "Edge", "desktop"),
    ("Android", "Chrome", "mobile"),
    ("iOS", "Safari", "mobile"),
)


def visits(*, seed: int, visitors: int, seconds: int) -> Iterator[tuple[float, WebEvent]]:
    """What `visitors` do within `seconds`, in order: (seconds since the start, event). Equal seeds, equal visits."""
    chance = Random(seed)  # noqa: S311 - made up
    waiting: list[tuple[float, int, Visitor]] = []
    for number in range(visitors):
        visitor = Visitor(chance, f"{seed}-{number}")
        heappush(waiting, (chance.uniform(0, seconds), number, visitor))
    while waiting:
        at, number, visitor = heappop(waiting)
        if at >= seconds:
            continue
        yield at, visitor.act()
        heappush(waiting, (at + visitor.pause(), number, visitor))


class Visitor:
    """One browser, which comes back now and then."""

    def __init__(self, chance: Random, name: str) -> None:
        self._chance = chance
        self._is_new = True
        self._is_named = False
        self._path = "/"
        country, city = chance.choice(_WHERE)
        os, browser, device = chance.choice(_WITH)
        self._known: dict[str, Any] = {
            "project_id": PROJECT,
            "device_id": f"device-{name}",
            "profile_id": f"profile-{name}" if chance.random() < 0.3 else "",
            "country": country,
            "city": city,
            "os": os,
            "browser": browser,
            "device": device,
        }

    def act(self) -> WebEvent:
        """What it does next."""
        if self._is_new:
            self._is_new = False
            self._path = self._chance.choice(PAGES[:5])
            referrer, name, kind = self._chance.choice(_FROM)
            return ScreenView(**self._known, path=self._path, referrer=referrer, referrer_name=name, referrer_type=kind)
        if self._known["profile_id"] and not self._is_named:
            self._is_named = True
            return self._identify()
        throw = self._chance.random()
        if self._path == "/checkout" and throw < 0.6:
            return Purchase(**self._known, path=self._path, revenue=self._chance.randrange(900, 25_000))
        if self._path.count("/") == 2 and throw < 0.35:
            return AddToCart(**self._known, path=self._path, properties={"article": self._path.rpartition("/")[2]})
        if not self._known["profile_id"] and throw > 0.97:
            self._known["profile_id"] = self._known["device_id"].replace("device", "profile")
            return SignUp(**self._known, path=self._path)
        self._path = self._chance.choice(_NEXT[self._path])
        return ScreenView(**self._known, path=self._path)

    def _identify(self) -> Identify:
        first, last = self._chance.choice(_FIRST), self._chance.choice(_LAST)
        plan = self._chance.choice(("free", "free", "plus"))
        return Identify(
            **self._known,
            path=self._path,
            first_name=first,
            last_name=last,
            email=f"{first}.{last}@mail.example".lower(),
            groups=["newsletter"] if plan == "free" else [],
            properties={"plan": plan},
        )

    def pause(self) -> float:
        """Seconds until then: a look at a page, or a break of some hours, after which it is another visit."""
        if self._chance.random() < 0.75:
            return self._chance.expovariate(1 / 40)
        self._is_new = True
        return self._chance.uniform(3_600, 30_000)
