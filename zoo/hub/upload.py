"""Upload of a published folder to Hugging Face."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from zoo.core.errors import ZooError, error_message
from zoo.core.network import offline_reason
from zoo.core.version import version
from zoo.hub.pretrained import CARD


class HubRepository:
    """A model repository of Hugging Face, which gets one commit or none."""

    def __init__(self, to: str, force: bool) -> None:
        self.repo = to.removeprefix("hf:")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ZooError(f"--to {to}: must be hf:OWNER/NAME")
        if why := offline_reason():
            raise ZooError(f"--to {to}: {why}; publish to a folder and upload that later")
        import huggingface_hub

        if not huggingface_hub.get_token():
            raise ZooError(f"--to {to}: no token for Hugging Face; run `hf auth login` or set HF_TOKEN")
        self.api = huggingface_hub.HfApi()
        try:
            exists = self.api.repo_exists(self.repo) and self.api.file_exists(self.repo, CARD)
        except Exception as error:  # no network, no rights, no such owner: errors of many types
            raise ZooError(f"--to {to}: {error_message(error)}") from None
        if exists and not force:
            raise ZooError(f"--to {to}: holds published weights already; --force replaces their card and samples")
        self._work = tempfile.mkdtemp(prefix="zoo-publish-")

    def __enter__(self) -> Path:
        return Path(self._work)

    def __exit__(self, *error: Any) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def take(self, folder: Path) -> str:
        """Upload the folder."""
        try:
            self.api.create_repo(self.repo, exist_ok=True)
            self.api.upload_folder(
                repo_id=self.repo, folder_path=str(folder), commit_message=f"Published by zoo {version()}"
            )
        except Exception as error:
            raise ZooError(f"hf:{self.repo}: cannot be uploaded ({error_message(error)})") from None
        return f"https://huggingface.co/{self.repo}"
