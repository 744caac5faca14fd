"""Ends the reasoning of an answer that is being written."""
