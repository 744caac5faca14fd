"""LiteLLM's management API: keys, users and teams.

The fields are those of LiteLLM 1.106 (litellm/proxy/_types.py). A field that this gateway does not
hold is refused by name, unless its value is empty: no limit is accepted that would not be enforced.
"""
