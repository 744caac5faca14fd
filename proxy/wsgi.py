"""``gunicorn proxy.wsgi``, and any other WSGI server: settings come from the environment."""

import atexit
import os

from proxy import config
from proxy.server import serve

try:
    _settings = config.from_environment(os.environ)
except config.SettingsError as error:
    serve.say(str(error))
    raise SystemExit(serve.CANNOT_LOAD) from None

application = serve.application(_settings)

from proxy.app import life_of  # noqa: E402  (late, as `serve` says)

# gunicorn with our gunicorn.conf.py has closed everything before. Others have no hook for that.
atexit.register(life_of(application).close)
