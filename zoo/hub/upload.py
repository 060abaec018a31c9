"""Upload published folders to model repositories on Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.core.errors import ZooError, error_message
from zoo.core.network import hub_endpoint, offline_reason
from zoo.core.version import version
from zoo.hub.pretrained import CARD


class ModelRepository:
    """A repository on Hugging Face that takes a folder in one commit.

    Everything that can fail before the upload is checked here, before a generator is evaluated for minutes.

    Args:
        to: ``hf:owner/name``.
        force: replace what was published there before.
        private: make a new repository private.

    Raises:
        ZooError: a malformed name, no network, no token, no rights, files that are there already, or a public
            repository that should be private.
    """

    workspace: Path | None = None  # where the folder is prepared; None: the system's temporary folder
    prefix = ".zoo-publish-"

    def __init__(self, to: str, force: bool, private: bool = False) -> None:
        self.private = private
        self.name = to.removeprefix("hf:")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", self.name):
            raise ZooError(f"--to {to}: must read hf:owner/name")
        if reason := offline_reason():
            raise ZooError(f"--to {to}: {reason}. Publish to a folder, and upload that later.")
        import huggingface_hub  # here: it takes a second to import, and folders do not need it

        if not huggingface_hub.get_token():
            raise ZooError(f"--to {to}: no token for Hugging Face. Run `hf auth login` or set HF_TOKEN.")
        self.api = huggingface_hub.HfApi(endpoint=hub_endpoint())
        try:
            exists = self.api.repo_exists(self.name)
            files = set(self.api.list_repo_files(self.name)) - {".gitattributes"} if exists else set()
            public = exists and not self.api.repo_info(self.name).private
        except Exception as error:  # of many kinds: no network, no rights, no such owner
            raise ZooError(f"--to {to}: {error_message(error)}") from None
        if private and public:
            raise ZooError(f"--to {to}: is public already. Make it private there, or leave out --private")
        if files and CARD not in files:
            raise ZooError(f"--to {to}: has files that `zoo publish` did not write ({min(files)}). Name another")
        if files and not force:
            raise ZooError(f"--to {to}: already has published weights. --force replaces them, their card and samples.")
        # Of an earlier publication, perhaps under another name.
        self.weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]

    def accept(self, folder: Path) -> str:
        """Upload ``folder`` and return the address of the repository.

        Raises:
            ZooError: the upload failed.
        """
        message = f"Published by zoo {version()}"
        try:
            self.api.create_repo(self.name, exist_ok=True, private=self.private or None)
            self.api.upload_folder(
                repo_id=self.name,
                folder_path=str(folder),
                commit_message=message,
                delete_patterns=self.weights or None,  # to look for none takes another request
            )
        except Exception as error:
            raise ZooError(f"hf:{self.name}: cannot be uploaded ({error_message(error)})") from None
        return f"{hub_endpoint()}/{self.name}"
