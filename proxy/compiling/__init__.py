"""Compiles schemas, patterns and grammars of clients within a budget, if necessary in a child."""
