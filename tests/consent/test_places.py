"""Where a user's choices and data lie."""

from pathlib import Path

import pytest

from eventrec.consent.places import check_app, places_of
from eventrec.errors import ConsentError, OptionsError


@pytest.mark.parametrize(
    ("platform", "environment", "choices", "data"),
    [
        (
            "linux",
            {"HOME": "/home/ada"},
            "/home/ada/.config/my-app/analytics.json",
            "/home/ada/.local/share/my-app/analytics",
        ),
        (
            "linux",
            {"HOME": "/home/ada", "XDG_CONFIG_HOME": "/etc/ada", "XDG_DATA_HOME": "/srv/ada"},
            "/etc/ada/my-app/analytics.json",
            "/srv/ada/my-app/analytics",
        ),
        (
            "linux",
            {"HOME": "/home/ada", "XDG_CONFIG_HOME": "here", "XDG_DATA_HOME": ""},
            "/home/ada/.config/my-app/analytics.json",
            "/home/ada/.local/share/my-app/analytics",
        ),
        (
            "darwin",
            {"HOME": "/Users/ada", "XDG_CONFIG_HOME": "/etc/ada"},
            "/Users/ada/Library/Application Support/my-app/analytics.json",
            "/Users/ada/Library/Application Support/my-app/analytics",
        ),
        (
            "win32",
            {"APPDATA": "/ada/Roaming", "LOCALAPPDATA": "/ada/Local"},
            "/ada/Roaming/my-app/config/analytics.json",
            "/ada/Local/my-app/data/analytics",
        ),
    ],
)
def test_each_platform_has_its_places(platform: str, environment: dict[str, str], choices: str, data: str) -> None:
    places = places_of("my-app", environment, platform=platform)

    assert (places.choices, places.data) == (Path(choices), Path(data))


@pytest.mark.parametrize("app", ["rerun", "my-app", "App.v2", "a", "a" * 64])
def test_a_name_of_an_application_is_taken(app: str) -> None:
    assert check_app(app) == app


@pytest.mark.parametrize(
    "app",
    ["", ".", "..", "a/b", "../a", "a\\b", ".hidden", "a.", "a b", "a\0", "a\n", "é", "CON", "nul.txt", "a" * 65, 7],
)
def test_what_could_lead_elsewhere_is_not_a_name(app: object) -> None:
    with pytest.raises(OptionsError, match="name of an application"):
        check_app(app)


def test_without_a_home_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "relative")

    with pytest.raises(ConsentError, match="no home directory"):
        places_of("my-app", {"HOME": "relative"}, platform="linux")
