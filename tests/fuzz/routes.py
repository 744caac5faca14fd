"""Every route of a gateway with the given flags, as the application itself lists them.

    python -m tests.fuzz.routes --llama-api URL …

Prints a line of JSON: a list of [endpoint, rule, methods, is_page]. A process of its
own, since an application looks after its backends from when it is made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Route(NamedTuple):
    """`methods` without HEAD and OPTIONS, which werkzeug adds."""

    endpoint: str
    rule: str
    methods: tuple[str, ...]
    is_page: bool


def listed(flags: Sequence[str]) -> list[Route]:
    """The routes of a gateway with these flags."""
    command = [sys.executable, "-m", "tests.fuzz.routes", *flags]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return [
        Route(endpoint, rule, tuple(methods), *kind)
        for endpoint, rule, methods, *kind in json.loads(done.stdout)
    ]


def main(flags: Sequence[str]) -> None:
    from proxy import config
    from proxy.app import create_app
    from proxy.web.routes import routes_of

    app = create_app(config.load(flags, {}))
    by_rule = defaultdict(list)
    for (_, rule), served in routes_of(app).items():
        by_rule[rule].append(served)
    found = [
        (
            rule.endpoint,
            rule.rule,
            sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}),
            any(served.group == "pages" for served in by_rule[rule.rule]),
        )
        for rule in app.url_map.iter_rules()
    ]
    print(json.dumps([one for one in found if one[2]]), flush=True)
    os._exit(0)  # its threads would keep running


if __name__ == "__main__":
    main(sys.argv[1:])
