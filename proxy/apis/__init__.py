"""The public APIs, one module or package each: parsers, encoders, replies and errors. Pure."""
