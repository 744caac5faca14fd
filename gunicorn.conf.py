"""How ``gunicorn proxy.wsgi`` serves: read by gunicorn from the folder it is started in.

The settings come from the environment (``SLOTPROXY_…``, ``SLOTPROXY_CONFIG=FILE``); gunicorn's own
flags still win over what is set here.
"""

import os

# Names of gunicorn's settings (config is one) must not be used for anything else in here.
from proxy.config import SettingsError, from_environment
from proxy.config.checks import programs
from proxy.server.serve import gunicorn_options, say

try:
    _settings = from_environment(os.environ)
    programs(_settings)
    _options = gunicorn_options(_settings)
except SettingsError as _error:
    say(str(_error))
    raise SystemExit(2) from None

globals().update(_options)
