"""Settings: one table, read from flags, environment and a TOML file."""

from .checks import each_its_own, no_models_here, one_worker
from .keys import ApiKey, Secret
from .models import PID, PORT, Foreign, ModelConfig
from .settings import (
    SECTIONS,
    AgentConfig,
    BackendConfig,
    McpConfig,
    SearchConfig,
    Settings,
    SettingsError,
)
from .sources import from_environment, load, of_other_program
from .table import ENV_PREFIX, SettingRow, all_rows, table

__all__ = [
    "ENV_PREFIX",
    "PID",
    "PORT",
    "SECTIONS",
    "AgentConfig",
    "ApiKey",
    "BackendConfig",
    "Foreign",
    "McpConfig",
    "ModelConfig",
    "SearchConfig",
    "Secret",
    "SettingRow",
    "Settings",
    "SettingsError",
    "all_rows",
    "each_its_own",
    "from_environment",
    "load",
    "no_models_here",
    "of_other_program",
    "one_worker",
    "table",
]
