"""The packages; everything else is in setup.cfg.

templates/ and models/ stand at the top of the repository, where who writes a prompt template or
looks for a model looks for them. Installed, they must lie inside the package: they are mapped to
``proxy/templates`` and ``proxy/models`` as data. ``proxy.runtime.installation`` knows both places.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["proxy", "proxy.*"]), "proxy.templates", "proxy.models"],
    package_dir={"proxy.templates": "templates", "proxy.models": "models"},
    package_data={
        "proxy": ["py.typed"],
        "proxy.web": ["static/**/*"],
        "proxy.templates": ["**/*"],
        "proxy.models": ["tinychat-chatglm3.bin"],
    },
)
