"""bitroute: every step of an LLM agent at the precision it needs (after arXiv 2602.02711)."""

__version__ = "0.1.0"
