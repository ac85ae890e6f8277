"""The reference: the help of every command, and the docstrings of every folder."""

import contextlib
import io
import os

from resproto_fd.configs.settings_reference import describe_settings
from resproto_fd.training import cli
from site_pages.markdown import block, table
from site_pages.source import FOLDERS, ROOT, module_name, registered


def pages() -> dict[str, str]:
    """The pages of commands and settings, and one for each folder of modules."""
    folders = sorted(path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py"))
    made = {"reference/index.md": _commands(), "reference/settings.md": _settings()}
    return made | {f"reference/{_title(path)}.md": _folder(path) for path in folders}


def _commands() -> str:
    text = ["# Commands", "", "This is what `resproto COMMAND --help` prints.", ""]
    for command, (_, meaning) in cli.COMMANDS.items():
        text += [
            f"## resproto {command}",
            "",
            f"{meaning[0].upper()}{meaning[1:]}.",
            "",
            block("text", _help(command)),
            "",
        ]
    return "\n".join(text)


def _settings() -> str:
    rows = [[f"`{row['name']}`", row["values"], f"`{row['default']}`", row["meaning"]] for row in describe_settings()]
    return "\n".join(
        [
            "# Settings",
            "",
            "Words `key=value` of `resproto train`, `test` and `demo`. `resproto list settings` lists them too, and "
            "`resproto list settings KEY` explains one, or lists those that begin so. YAMLs have the same keys: "
            "`train.epochs` is `epochs` below `train:`.",
            "",
            table(["setting", "values", "default", "meaning"], rows),
            "",
        ]
    )


def _help(command: str) -> str:
    out, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.main([command, "--help"])
    finally:
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    return out.getvalue()


def _folder(package) -> str:
    """A section for each module. Classes of methods stand on the pages of the methods."""
    own_pages = {module for module, _ in registered().values() if module.count(".") == 2}
    text = [f"# {_title(package)}", "", f"::: {module_name(package / '__init__.py')}", "    options: {members: []}", ""]
    for path in sorted(package.glob("*.py")):
        if path.name != "__init__.py" and module_name(path) not in own_pages:
            hidden = [cls for module, cls in registered().values() if module == module_name(path)]
            filters = ", ".join(["'!^_'", *(f"'!^{cls}$'" for cls in hidden)])
            options = f"    options: {{show_root_toc_entry: false, filters: [{filters}]}}"
            text += [f"## {path.stem}", "", f"::: {module_name(path)}", options, ""]
    if _title(package) == "detectors":
        text += ["The classes of the methods stand on [their own pages](../methods/index.md).", ""]
    return "\n".join(text)


def _title(package) -> str:
    return module_name(package / "__init__.py").removeprefix("resproto_fd.")
