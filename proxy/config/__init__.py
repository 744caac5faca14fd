"""Settings: one table, read from flags, environment and a TOML file."""

from .checks import each_its_own, no_models_here, one_worker
from .keys import ApiKey, Secret
from .models import PID, PORT, Foreign, ModelConfig
from .settings import SECTIONS, BackendConfig, Settings, SettingsError
from .sources import from_environment, load, of_other_program
from .table import SettingRow, all_rows, table

__all__ = [
    "PID",
    "PORT",
    "SECTIONS",
    "ApiKey",
    "BackendConfig",
    "Foreign",
    "ModelConfig",
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
