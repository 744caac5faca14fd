"""Serving: HTTP/1.1 under gunicorn's gevent worker, or waitress."""
