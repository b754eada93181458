"""Weights from ModelScope, by its own small client (modelscope-hub), which resumes and checks hashes.

Which files are taken is decided here: code and pickles never are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from ekiben.contract import FetchRequest
from ekiben.contract.repository import Selection

_DEFAULT_REVISION: Final = "master"


class ModelScope:
    def fetch(self, request: FetchRequest) -> Path:
        """The file, or the folder of the repository. Raises FetchFailed."""
        from ekiben_modelscope.hub import OWN, download  # with the client, which need not be installed

        selection = Selection.of(request.parameters)
        revision = request.parameters.get("revision") or _DEFAULT_REVISION
        download(request, selection, repo=request.parameters["repo"], revision=revision)
        shutil.rmtree(request.folder / OWN, ignore_errors=True)
        return selection.loader_path(request.folder)
