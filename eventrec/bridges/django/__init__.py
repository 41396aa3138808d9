"""A recorder in a Django project; needs `eventrec[django]`.

    INSTALLED_APPS = [..., "eventrec.bridges.django"]
    MIDDLEWARE = ["eventrec.bridges.django.middleware.RecordRequests", ...]
    EVENTREC = {"to": "postgresql://…", "log": BASE_DIR / "var/events"}   # without it: EVENTREC_TO, EVENTREC_LOG, …

    from eventrec.bridges.django import recorder

    recorder().record(OrderPlaced(...))

Under WSGI, ASGI, `runserver` and in commands alike: see `eventrec.bridges.process_recorder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from django.apps import apps as _installed

from eventrec.bridges.django.apps import EventrecConfig

if TYPE_CHECKING:
    from eventrec.recorder import EventRecorder
    from eventrec.status import Status

__all__ = ["close", "recorder", "start"]


def recorder() -> EventRecorder:
    """The project's recorder, open in this process.

    Raises:
        LookupError: "eventrec.bridges.django" is not in INSTALLED_APPS.
        django.core.exceptions.AppRegistryNotReady: It is called while Django is still being set up.
    """
    of_process = _config().process_recorder
    of_process.ensure_open()
    return of_process.recorder


def start() -> None:
    """Open the project's recorder before anything is recorded, also where this process has closed it.

    Raises:
        LookupError, django.core.exceptions.AppRegistryNotReady: As `recorder`.
    """
    _config().process_recorder.start()


def close() -> Status:
    """Close the project's recorder before this process ends, which otherwise does it; see `SyncRecorder.close`.

    Only `start` opens it again in this process.
    """
    return _config().process_recorder.close()


def _config() -> EventrecConfig:
    return cast("EventrecConfig", _installed.get_app_config(EventrecConfig.label))
