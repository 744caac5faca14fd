"""Canonical values shared by all rooms: requests, tasks and events."""
