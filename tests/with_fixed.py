"""Runs slotproxy with other values of `proxy.config.fixed`: ``python -m tests.with_fixed`` with
``FIXED={"PING": 0.2}`` in the environment."""

import json
import os
import sys

from proxy.config import fixed

for _name, _value in json.loads(os.environ["FIXED"]).items():
    assert hasattr(fixed, _name), _name
    setattr(fixed, _name, _value)

if __name__ == "__main__":
    from proxy.__main__ import main

    sys.exit(main())
