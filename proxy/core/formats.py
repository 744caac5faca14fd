from .request import (
    AUTO,
    BY_PROMPT,
    FORMATS,
    REQUIRED,
    SCHEMAS,
    TOOLS,
    describes_document,
    describes_tools,
    rewrites,
)

__all__ = [
    "AUTO",
    "BY_PROMPT",
    "FORMATS",
    "REQUIRED",
    "SCHEMAS",
    "TOOLS",
    "describes_document",
    "describes_tools",
    "rewrites",
]
