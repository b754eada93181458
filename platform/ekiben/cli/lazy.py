"""A click group that knows its commands by name and imports one only when it is called.

So that `ekiben --help` is instant, and a broken part of the platform does not take the rest of the
command line down with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command lives, as `module:attribute`, and its line in the help of its group."""

    target: str
    help: str

    def load(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), self.target
        return command


class LazyGroup(click.Group):
    """Takes `sections` of lazy commands and shows them in that order."""

    sections: Mapping[str, Mapping[str, LazyCommand]] = {}
    everywhere: Sequence[click.Option] = ()

    def show(
        self, sections: Mapping[str, Mapping[str, LazyCommand]], *, everywhere: Sequence[click.Option] = ()
    ) -> None:
        """Offer these commands, each with the options `everywhere` unless it has its own of that name.

        The placeholders let click suggest the right name for a mistyped one.
        """
        self.sections = sections
        self.everywhere = everywhere
        for commands in sections.values():
            for name, command in commands.items():
                self.add_command(click.Command(name, short_help=command.help))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in self.sections.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for commands in self.sections.values():
            if cmd_name in commands:
                command = commands[cmd_name].load()
                _share(command, self.everywhere)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, command.help) for name, command in commands.items()], col_max=12)


def _share(command: click.Command, options: Sequence[click.Option]) -> None:
    """Give the options to the command and those below it, once."""
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _share(child, options)
        return
    taken = {parameter.name for parameter in command.params}
    command.params += [option for option in options if option.name not in taken]
