"""The files of a package, and the list that says whether they are whole."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from resproto_fd.configs.errors import UnreadableFile, UserError, cut
from resproto_fd.configs.file_names import plain_name
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.readers.json_reader import read_json
from resproto_fd.training.results import Record, Sha256

FORMAT = 1
CONTENTS, CONFIG, WEIGHTS, RESULT, CARD = "package.json", "config.yaml", "model.safetensors", "result.json", "README.md"
CALIBRATION = ("calibration.json", "calibration_reference.npz")
ONNX, EXPORTED = "model.onnx", "model.pt2"
NEEDED = (CONTENTS, CONFIG, WEIGHTS, RESULT, *CALIBRATION)
"""What is fetched from a hub; `CALIBRATION` may be absent."""


class Contents(Record):
    """`package.json`: the files of a package with their SHA-256, written last."""

    format: Annotated[int, Field(ge=1)] = FORMAT
    made_by: str = ""
    files: dict[str, Sha256]


def check(folder: Path) -> Contents:
    """Compares a package's files with their SHA-256.

    Raises:
        UserError: It is no package, a file is missing or was changed, or a newer version made it.
    """
    path = folder / CONTENTS
    if not path.is_file():
        raise UserError(f"{folder}: expected a package with {CONTENTS} in it; make one: resproto export RUN")
    remedy = "get the package again"
    data = read_json(path, remedy)
    if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
        raise UnreadableFile(f"{path}: format {data['format']}, this version reads up to {FORMAT}; upgrade")
    try:
        contents = Contents.model_validate(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise UnreadableFile(
            f"{path}: {cut('.'.join(map(str, fault['loc'])))}: {cut(fault['msg'])}; {remedy}"
        ) from None
    for needed in (CONFIG, WEIGHTS):
        if needed not in contents.files:
            raise UnreadableFile(f"{path}: does not list {needed}; {remedy}")
    for name, digest in contents.files.items():
        file = folder / plain_name(name, f"{path}: name of a file")
        if not file.is_file() and name not in NEEDED:
            continue  # a hub's copy has only what is needed
        if not file.is_file():
            raise UserError(f"{file}: is missing from the package; {remedy}")
        if sha256_of(file) != digest:
            raise UserError(f"{file}: is not the file that {CONTENTS} lists (SHA-256); {remedy}")
    return contents
