"""Requests that run and that ended: listed, explained and cancelled."""
