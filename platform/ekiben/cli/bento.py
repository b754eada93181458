"""`ekiben bento`: the families' Bentos, built and containerised by BentoML in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ekiben.cli.output import echo_json, echo_table, json_option
from ekiben.errors import ConfigError, EkibenError

if TYPE_CHECKING:
    from ekiben.contract.model import Family

FAMILIES: Final = ("llm", "embedding", "vision", "audio")
BACKENDS: Final = ("docker", "podman", "nerdctl", "buildah", "buildctl")
"""What BentoML can build images with, in the order in which they are looked for."""

family_argument = click.argument("family", type=click.Choice(FAMILIES))
model_option = click.option(
    "--model",
    metavar="MODEL",
    help="Serve this model unless EKIBEN_MODEL says otherwise: a built-in model, or a path there.",
)


@click.group()
def bento() -> None:
    """Build the families' Bentos with BentoML.

    Each family is one Bento: an OpenAI-compatible server for one model, without the platform. Built
    Bentos go to BentoML's own store; `bentoml serve NAME` serves them.
    """


@bento.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the families, their Bentos and which was built last."""
    from ekiben.contract.model import Family

    bentos = [_describe(Family(family)) for family in FAMILIES]
    if as_json:
        echo_json(bentos)
        return
    rows = [(b["family"], b["bento"], " ".join(b["engines"]), b["latest"] or "", b["folder"]) for b in bentos]
    echo_table(("FAMILY", "BENTO", "ENGINES", "BUILT", "FOLDER"), rows, empty="no Bentos")


@bento.command("build")
@family_argument
@model_option
def build(family: str, model: str | None) -> None:
    """Build the Bento of a FAMILY and put it into BentoML's store. Needs no network."""
    from ekiben.contract.model import Family

    click.echo(f"built {_build(Family(family), model)}")


@bento.command("containerize")
@family_argument
@model_option
@click.option(
    "--backend", type=click.Choice(BACKENDS), help="What builds the image; by default what is here."
)
@click.option("-t", "--tag", metavar="NAME:TAG", help="The image's name; by default that of the Bento.")
def containerize(family: str, model: str | None, backend: str | None, tag: str | None) -> None:
    """Build the Bento of a FAMILY and make a container image of it, with docker, podman or the like."""
    from ekiben.contract.model import Family

    backend = _backend(backend)
    built = _build(Family(family), model)
    image = tag or built
    _bentoml("containerize", built, "--backend", backend, "--image-tag", image)
    click.echo(f"built the image {image}: {backend} run --rm -p 3000:3000 {image}")


def _describe(family: Family) -> dict[str, Any]:
    from ekiben.plugins.bentos import bento_folder
    from ekiben.plugins.discovery import discover

    engines = [
        plugin_id
        for plugin_id, plugin in discover().engines().items()
        if plugin.manifest.engine is not None and family in plugin.manifest.engine.families
    ]
    name = f"ekiben-{family.value}"
    return {
        "family": family.value,
        "bento": name,
        "folder": str(bento_folder(family)),
        "engines": engines,
        "latest": _latest(name),
    }


def _latest(name: str) -> str | None:
    """The version that BentoML's store calls the latest; BentoML itself takes a second to ask."""
    from ekiben.settings import process_environment

    home = Path(process_environment().get("BENTOML_HOME") or "~/bentoml").expanduser()
    try:
        return (home / "bentos" / name / "latest").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _build(family: Family, model: str | None) -> str:
    """Build, and return the tag."""
    from ekiben.plugins.bentos import bento_folder

    arguments = ["build", str(bento_folder(family)), "--output", "tag"]
    if model is not None:
        arguments += ["--arg", f"model={_checked(model, family)}"]
    output = _bentoml(*arguments, capture=True)
    tags = [line.partition("__tag__:")[2].strip() for line in output.splitlines() if "__tag__:" in line]
    if not tags:
        raise EkibenError(f"bentoml build did not say what it built: {output.strip()[-200:]!r}")
    return tags[-1]


def _checked(model: str, family: Family) -> str:
    """The model, if this family can serve it. Raises ConfigError."""
    from ekiben.catalog.specs import resolve_model
    from ekiben.plugins.discovery import discover

    spec = resolve_model(model, plugins=discover())
    if spec.family is not family:
        raise ConfigError(
            f"{model!r} is a model of the family {spec.family.value}: ekiben bento build {spec.family.value}"
        )
    return model


def _backend(wanted: str | None) -> str:
    for name in (wanted,) if wanted else BACKENDS:
        if shutil.which(name):
            return name
    if wanted:
        raise EkibenError(f"{wanted} is not installed, or not on the PATH: install it, or choose another")
    raise EkibenError(f"there is nothing here to build an image with: install one of {', '.join(BACKENDS)}")


def _bentoml(*arguments: str, capture: bool = False) -> str:
    """Run BentoML's command line to its end; its complaints go to ours. Raises EkibenError."""
    from ekiben.settings import process_environment

    environment = {"BENTOML_DO_NOT_TRACK": "True"} | process_environment()
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "bentoml", *arguments],
        stdout=subprocess.PIPE if capture else None,
        stdin=subprocess.DEVNULL,
        env=environment,
        text=True,
        errors="replace",
        check=False,
    )
    output = done.stdout or ""
    if done.returncode != 0:
        if output:
            click.echo(output.rstrip(), err=True)
        raise EkibenError(f"bentoml {arguments[0]} failed with code {done.returncode}; its reason is above")
    return output
