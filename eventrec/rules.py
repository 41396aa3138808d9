"""Options that say what is recorded of which events: what is redacted, what is sampled, how many a second."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from eventrec.runtime.field_docs import described

DEFAULT_KEYS: Final = (
    *("*password*", "*passwd*", "*passphrase*", "*passcode*", "pwd", "*pwd", "*pincode"),
    *("token", "*token", "*accesstokens", "*refreshtokens", "*apitokens", "*jwt", "csrf*", "xsrf*"),
    *("sessionid", "*sessionid", "*sessionkey", "cookie", "*cookie", "*cookies"),
    *("secret", "*secret", "*secrets", "*secretkey", "*clientsecret*", "*credential", "*credentials"),
    *("*apikey", "*apikeys", "*privatekey", "*accesskey", "*signingkey", "*encryptionkey"),
    *("auth", "authorization", "*authorization", "*authheader"),
    *("*cardnumber", "*cardno", "*ccnumber", "*creditcard", "*debitcard", "pan", "cvv", "*cvv2", "cvc", "*cvc2"),
    *("*securitycode", "iban", "ssn", "*socialsecuritynumber"),
)
"""The keys of `Redaction(defaults=True)`; `*` stands for any characters, or none."""


@described
class Redaction(BaseModel):
    """What is redacted in untyped payloads, in extra columns, and in the fields of `recorder.context(…)`.

    A key counts without regard to case and without `_`, `-`, `.` and spaces: `api_key`, `Api-Key` and `apiKey` are one.
    The value of a key that matches is "[redacted]", whatever it is, at any depth, also in pairs such as
    `["Authorization", "…"]` and `{"name": "Authorization", "value": "…"}`; null stays null. A column that is not text
    is null. A field with a marker of its own keeps to that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    defaults: bool = True
    """Passwords, tokens, session ids, cookies, secrets, keys, authorization headers and card numbers, by the keys of
    `DEFAULT_KEYS`; and in texts: what follows `Bearer` or `Basic`, what a line says behind `Authorization:` or
    `Cookie:`, JSON Web Tokens, passwords in URLs, private keys in PEM, and `key=value` or `key: value` where that key
    matches; the value may be an object or a list."""
    keys: frozenset[str] = frozenset()
    """More keys; `*` stands for any characters."""
    patterns: tuple[str, ...] = ()
    """Regular expressions: what matches in a text, also in a key, is redacted; of one with a group called `secret`,
    that group alone."""
    cards: bool = True
    """Card numbers in texts: 13 to 19 digits, perhaps in groups of two or more, that begin with 3 to 6 or 2221 to 2720
    and whose check digit (Luhn) is right."""

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in given:
            try:
                re.compile(pattern)
            except re.error as exc:
                raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc
        return given


def _redaction(value: Any) -> Any:
    if value is True:
        return Redaction()
    return None if value is False else value


RedactionOption: TypeAlias = Annotated[Redaction | bool | None, BeforeValidator(_redaction), AfterValidator(_redaction)]
"""A `Redaction`, or True for the default one. Kept as a `Redaction`, or None."""


@described
class Sampling(BaseModel):
    """A share of the events of one type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    rate: float = Field(ge=0, le=1)
    """The share that is taken: 0.1 is one in ten."""
    key: str | None = None
    """The field that decides, such as `user_id`, or `user.id` inside another: events of the same value are all taken or
    all refused, in every process and of every type with this rate or a higher one. An event without it is taken. None:
    each event is drawn by chance."""


def _sampling(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a rate is a number from 0 to 1")  # noqa: TRY004 - pydantic expects it
    if isinstance(value, (int, float)):
        return Sampling(rate=value)
    return value


SamplingOption: TypeAlias = Annotated[Sampling | float, BeforeValidator(_sampling)]
"""A `Sampling`, or the rate of one that is drawn by chance. Kept as a `Sampling`."""


@described
class RateLimit(BaseModel):
    """At most `count` events of one type in each `period` of seconds, counted by the monotonic clock."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    count: int = Field(ge=0)
    """Events."""
    period: float = Field(gt=0)
    """Seconds."""


_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_RATE: Final = re.compile(r"\s*(\d+)\s*/\s*(\d*)\s*(ms|s|m|h|d)\s*", re.ASCII)


def _rate_limit(value: object) -> Any:
    if not isinstance(value, str):
        return value
    said = _RATE.fullmatch(value)
    if said is None:
        raise ValueError(f'{value!r} is not a rate: write "100/s", "5/m" or "1000/10s", with units {", ".join(_UNITS)}')
    count, periods, unit = said.groups()
    return RateLimit(count=int(count), period=int(periods or "1") * _UNITS[unit])


RateLimitOption: TypeAlias = Annotated[RateLimit | str, BeforeValidator(_rate_limit)]
"""A `RateLimit`, or a text such as "100/s", "5/m", "1000/10s". Kept as a `RateLimit`."""
