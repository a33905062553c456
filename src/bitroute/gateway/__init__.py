"""The gateway: an OpenAI-compatible server before two or more variants of one model, which routes every step of every episode.

It builds on routers, traces and the cost model, and imports neither environments nor training (but for `demo`, which brings a
model of its own). Where to find what:

    way of a request   app (the public port), connection (to a client), exchange (the values handed on), openapi
    bodies             wire (in), turns (messages as a router reads them), collect and sse (out)
    episodes           identity (who calls), sessions, matching, placing, lineage, state, views; session_store, redis_store,
                       restoring (after a crash)
    decisions          policy, loading (routers and their files), budget, exploration, scoring (networks in a thread)
    upstreams          upstream, replicas, connector, health
    records            tables, records (written), reading, history (for the page); export, evidence, estimate
    people             keys, limits, guard, admin, page/, metrics, telemetry
    process            config, commands, serve, demo, llama
"""
