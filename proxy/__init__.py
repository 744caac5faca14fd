"""slotproxy: a translation gateway in front of llama.cpp and PowerInfer servers."""

__version__ = "0.2.0"
