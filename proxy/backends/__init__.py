"""Drivers for the model servers, and the registry of configured backends."""
