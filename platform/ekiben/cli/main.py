"""The door of the command line: the tree of commands, and what a failure looks like to the user.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from ekiben import __version__
from ekiben.cli.lazy import LazyCommand, LazyGroup
from ekiben.cli.output import clean
from ekiben.cli.session import Session
from ekiben.errors import ConfigError, EkibenError

INTERRUPTED: Final = 130
"""What shells give for a process that SIGINT ended."""


def _remember(ctx: click.Context, option: click.Parameter, value: object) -> None:
    if value:  # given to the group or to the command: what is not given does not undo what is
        setattr(ctx.find_object(Session), str(option.name), value)


EVERYWHERE: Final = (
    click.Option(
        ["--home"],
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=_remember,
        help="Folder of the platform: database, weights, logs.  [env var: EKIBEN_HOME; default: ~/.ekiben]",
    ),
    click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Show the traceback of what goes wrong.",
    ),
)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ekiben", message="%(prog)s %(version)s")
def ekiben() -> None:
    """Name any model through the OpenAI API; it starts when asked and is gone when idle.

    `ekiben up` starts the platform on http://127.0.0.1:3000. The other commands talk to the platform
    that runs on the same home; what needs none running works without.
    """


ekiben.params += EVERYWHERE
ekiben.show(
    {
        "Platform": {
            "up": LazyCommand("ekiben.cli.up:up", "Run the platform in the foreground."),
            "ps": LazyCommand("ekiben.cli.ps:ps", "Show the models that run."),
            "config": LazyCommand("ekiben.cli.config:config", "Show the settings and where they come from."),
            "doctor": LazyCommand("ekiben.cli.doctor:doctor", "Check this machine and the home."),
            "simulate": LazyCommand("ekiben.cli.simulate:simulate", "Show what policies would have cost."),
        },
        "Models": {
            "model": LazyCommand("ekiben.cli.model:model", "List, show, add and remove models."),
            "alias": LazyCommand("ekiben.cli.alias:alias", "Give models other names."),
            "pull": LazyCommand("ekiben.cli.pull:pull", "Bring a model's weights to this machine."),
            "load": LazyCommand("ekiben.cli.lifecycle:load", "Start a model before anybody asks for it."),
            "stop": LazyCommand("ekiben.cli.lifecycle:stop", "Let a model's requests end and unload it."),
            "run": LazyCommand("ekiben.cli.run:run", "Ask a model, or chat with it."),
            "request": LazyCommand("ekiben.cli.request:request", "List and cancel running requests."),
            "batch": LazyCommand("ekiben.cli.batch:batch", "List, show and cancel batches."),
            "logs": LazyCommand("ekiben.cli.logs:logs", "Show what a model's replicas have logged."),
        },
        "Engines and Bentos": {
            "engine": LazyCommand("ekiben.cli.engine:engine", "List, install and check engines."),
            "bento": LazyCommand("ekiben.cli.bento:bento", "Build the families' Bentos with BentoML."),
        },
    },
    everywhere=EVERYWHERE,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Nothing that goes wrong leaves as a traceback."""
    _never_fail_to_print()
    session = Session()
    try:
        code = ekiben.main(
            arguments, prog_name="ekiben", standalone_mode=False, obj=session, complete_var="_EKIBEN_COMPLETE"
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except EkibenError as error:
        return _fail(session, error, error.message, 2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the last resort: a sentence instead of a traceback
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        message = f"this should not happen: {what}; `ekiben --debug …` shows where, please report it"
        return _fail(session, error, message, 1)


def _fail(session: Session, error: BaseException, message: str, code: int) -> int:
    if session.wants_traceback():
        traceback.print_exception(error)
    for line in message.splitlines():  # a spec may have several problems, one a line
        click.echo(f"error: {clean(line)}", err=True)
    return code


def _never_fail_to_print() -> None:
    """A terminal that cannot show a character gets a replacement instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
