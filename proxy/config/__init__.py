"""Settings: one table, read from flags, environment and a TOML file."""

from .checks import no_workers as no_workers
from .keys import ApiKey as ApiKey
from .keys import Secret as Secret
from .models import PID as PID
from .models import PORT as PORT
from .models import Foreign as Foreign
from .models import ModelConfig as ModelConfig
from .settings import SECTIONS as SECTIONS
from .settings import AgentConfig as AgentConfig
from .settings import BackendConfig as BackendConfig
from .settings import OidcConfig as OidcConfig
from .settings import Settings as Settings
from .settings import SettingsError as SettingsError
from .sources import from_environment as from_environment
from .sources import load as load
from .sources import of_other_program as of_other_program
from .table import SettingRow as SettingRow
from .table import all_rows as all_rows
from .table import table as table
