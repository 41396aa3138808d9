"""The application that Django loads: it makes the recorder, and opens nothing."""

from __future__ import annotations

from typing import Final

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from eventrec.bridges.process_recorder import ProcessRecorder, recorder_of
from eventrec.errors import EventrecError

SETTING: Final = "EVENTREC"


class EventrecConfig(AppConfig):
    """Has the project's recorder as `process_recorder`, once Django is set up."""

    name = "eventrec.bridges.django"
    label = "eventrec"
    verbose_name = "Events"

    process_recorder: ProcessRecorder

    def ready(self) -> None:
        """Make the recorder. Called for every command, and by `runserver` twice: nothing is opened here.

        Raises:
            ImproperlyConfigured: The setting EVENTREC, or the environment, says no recorder.
        """
        try:
            recorder = recorder_of(getattr(settings, SETTING, None), name=f"settings.{SETTING}")
        except EventrecError as exc:
            raise ImproperlyConfigured(str(exc)) from None  # It says all, and `manage.py` shows what is chained.
        self.process_recorder = ProcessRecorder(recorder)
