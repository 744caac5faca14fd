"""Renders messages as prompt text and splits answer text into its parts. Pure."""
