"""Packages on the Hugging Face hub."""

from pathlib import Path

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.training.packages import contents


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Sends a package to a repository, which is made if there is none; returns its address.

    The hub's own client signs in, with the token of `hf auth login` or HF_TOKEN.

    Args:
        folder: Of the package.
        repository: OWNER/NAME.
        private: Whether a new repository is private.

    Raises:
        UserError: The hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    listed = [*contents.check(folder).files, contents.CONTENTS]
    try:
        api = HfApi()
        address = api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        api.upload_folder(repo_id=repository, folder_path=str(folder), allow_patterns=listed, repo_type="model")
    except Exception as error:  # each version of the client has other errors of the network
        raise UserError(
            f"--push {repository}: {cut(str(error).strip() or type(error).__name__)}; the package is in {folder}: sign "
            "in (hf auth login), check the name, and try again"
        ) from error
    return str(address)


def fetched(repository: str) -> Path:
    """The folder of a package from the hub, or from its cache; code and other files of the repository are left there.

    Raises:
        UserError: There is none, or it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(contents.NEEDED)))
    except Exception as error:  # see `push`
        raise UserError(
            f"{repository}: there is no such folder, and the hub gave no package: "
            f"{cut(str(error).strip() or type(error).__name__)}"
        ) from error
