"""gunicorn's messages as lines of our log."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger


class GunicornLog(Logger):
    """gunicorn's own logger, unless its settings name a file or a configuration for the log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        if cfg.errorlog == "-" and not (cfg.logconfig or cfg.logconfig_dict or cfg.syslog):
            self.error_log.handlers.clear()
            self.error_log.propagate = True
