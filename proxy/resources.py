"""Where the data files of the package are, in a checkout and installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def templates() -> Path:
    """The folder of templates: chat/, pages/, knowledge/.

    It stands at the top of the repository, beside the package; setup.py maps it into the package
    when a wheel is built. An editable install reads the checkout.
    """
    installed = _PACKAGE / "templates"
    return installed if installed.is_dir() else _PACKAGE.parent / "templates"


def bundled() -> Path:
    """The model file of chatglm_cpp that is shipped. It may be missing; it lies as templates do."""
    name = "tinychat-chatglm3.bin"
    installed = _PACKAGE / "models" / name
    return installed if installed.is_file() else _PACKAGE.parent / "models" / name


def dialogues() -> dict[str, dict[str, str]]:
    """The texts of the dialogues' prompt templates, by kind and name."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((templates() / "dialogues").glob("*/*.jinja")):
        found.setdefault(path.parent.name, {})[path.stem] = path.read_text("utf-8")
    return found
