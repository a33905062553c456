"""The gateway: an OpenAI-compatible server before two or more variants of one model, which routes every step of every episode.

It builds on routers, traces and the cost model, and imports neither environments nor training.
"""
