"""The package's data files, in a checkout and installed."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def templates() -> Path:
    """The folder of templates, which setup.py maps into the package when a wheel is built."""
    installed = _PACKAGE / "templates"
    return installed if installed.is_dir() else _PACKAGE.parent / "templates"


def bundled() -> Path:
    """The bundled chatglm_cpp model file. It may be missing; it is stored like templates."""
    name = "tinychat-chatglm3.bin"
    installed = _PACKAGE / "models" / name
    return installed if installed.is_file() else _PACKAGE.parent / "models" / name


def dialogues() -> dict[str, dict[str, str]]:
    """The texts of the dialogues' prompt templates, by kind and name."""
    texts: dict[str, dict[str, str]] = {}
    for path in sorted((templates() / "dialogues").glob("*/*.jinja")):
        texts.setdefault(path.parent.name, {})[path.stem] = path.read_text("utf-8")
    return texts
