"""`ekiben up`: the platform in the foreground. Its flags are the settings, one for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from ekiben.cli.session import Session
from ekiben.settings import PREFIX, Settings

NO_FLAG: Final = frozenset({"api_key"})
"""A key on the command line could be read by every process of the machine."""

Command = Callable[..., Any]


def _settings_flags(command: Command) -> Command:
    for name in reversed([name for name in Settings.model_fields if name not in NO_FLAG]):
        command = _flag(name)(command)
    return command


def _flag(name: str) -> Callable[[Command], Command]:
    field = Settings.model_fields[name]
    is_switch = field.annotation is bool
    default = Settings.model_construct().model_dump(mode="json")[name]
    notes = [f"env var: {PREFIX}{name.upper()}"] + ([] if is_switch else [f"default: {default}"])
    description = str(field.description)
    text = f"{description[0].upper()}{description[1:]}.  [{'; '.join(notes)}]"
    option = f"--{name.replace('_', '-')}"
    if is_switch:
        return click.option(option, name, is_flag=True, default=None, help=text)
    return click.option(option, name, metavar="VALUE", help=text)


@click.command()
@_settings_flags
@click.pass_obj
@click.pass_context
def up(ctx: click.Context, session: Session, /, **flags: Any) -> None:
    """Run the platform in the foreground.

    It is ready when it prints what to try next. Ctrl-C lets running requests end and stops every model.

    Any other address than loopback needs a key in EKIBEN_API_KEY, which clients then send, or --no-auth.
    """
    from ekiben.app import run

    ctx.exit(run(session.load(**flags)))
