"""The embedding model of the extra `embed`: Google's Universal Sentence Encoder, multilingual.

The package ships the weights, so nothing is downloaded. The model reads text of clients in plain
Python and numpy, for many milliseconds at a time, so it runs in a child process that is confined.
It starts with the first text, and ends when it is idle for long, or with the gateway.
"""
