from pathlib import Path

import pytest

from eventrec import EventRecorderOptions
from eventrec.errors import OptionsError
from eventrec.server import ServerOptions


def test_what_is_given_counts_more_than_the_environment_and_that_more_than_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "options.toml"
    path.write_text('[eventrec]\nbatch_rows = 7\n[server]\nmax_rows = 1\nmax_requests = 2\nbody_timeout = "3s"\n')
    monkeypatch.setenv("EVENTREC_SERVER_MAX_REQUESTS", "20")
    monkeypatch.setenv("EVENTREC_SERVER_BODY_TIMEOUT", "30s")

    options = ServerOptions.load(path, body_timeout="300s")

    assert (options.max_rows, options.max_requests, options.body_timeout) == (1, 20, 300.0)
    assert EventRecorderOptions.load(path).batch_rows == 7


@pytest.mark.parametrize("text", ['["https://a.example", "https://b.example"]', "https://a.example, https://b.example"])
def test_list_in_the_environment_is_json_or_parted_by_commas(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_SERVER_CORS_ORIGINS", text)

    assert ServerOptions.load().cors_origins == ("https://a.example", "https://b.example")


def test_table_of_a_project_is_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[tool.eventrec]\nbatch_rows = 7\n[tool.eventrec.server]\nmax_rows = 5\n")

    assert ServerOptions.load(path).max_rows == 5
    assert EventRecorderOptions.load(path).batch_rows == 7


def test_file_without_a_table_of_the_recorder_may_have_one_of_the_server(tmp_path: Path) -> None:
    path = tmp_path / "options.toml"
    path.write_text("batch_rows = 7\n[server]\nmax_rows = 5\n")

    assert EventRecorderOptions.load(path).batch_rows == 7
    assert ServerOptions.load(path).max_rows == 5


def test_what_kubernetes_sets_for_a_service_is_not_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_SERVER_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("EVENTREC_SERVER_PORT", "tcp://10.0.0.1:80")

    assert ServerOptions.load() == ServerOptions()


@pytest.mark.parametrize("content", ["server = 1\n", "[server]\nmax_rows = 0\n", "[server]\nhosts = 7\n", "[server\n"])
def test_what_is_not_allowed_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "options.toml"
    path.write_text(content)

    with pytest.raises(OptionsError) as caught:
        ServerOptions.load(path)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['["a', "[" * 20_000])
def test_list_that_is_not_json_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_SERVER_HOSTS", text)

    with pytest.raises(OptionsError, match="hosts"):
        ServerOptions.load()
