"""Enforces the limits of keys, users and teams."""
