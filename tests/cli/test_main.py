# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole command line, command by command."""

from collections.abc import Iterator

import click
import pytest

from drakmet import cli, errors


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli.cli)
    for name in cli.cli.list_commands(context):
        command = cli.cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner, below in command.commands.items():
                yield f"{name} {inner}", below


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()])
def test_each_command_explains_itself_with_an_example(name: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=f"drakmet {name}"))
    assert command.get_short_help_str()
    if not isinstance(command, click.Group):
        assert "Example" in text, f"drakmet {name} --help shows no example"
        assert f"drakmet {name}" in text.split("Example", 1)[1]


def test_the_short_helps_are_the_commands_own() -> None:
    for name, (_, text) in cli._COMMANDS.items():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        assert command.get_short_help_str(limit=200) == text, name


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["drakmet", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_an_unknown_command_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "frobnicate") == errors.ExitCode.USAGE
    assert "No such command" in capsys.readouterr().err


def test_an_error_of_ours_says_where_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise errors.StoreError("disk full", where="a.db", hint="make room")

    monkeypatch.setattr(cli.cli, "main", fail)
    assert run(monkeypatch) == errors.ExitCode.FAILED
    assert capsys.readouterr().err == "drakmet: a.db: disk full\n  make room\n"
