"""Stages between a driver and an encoder; each maps a batch of events to a batch."""
