"""The gateway: an OpenAI-compatible server before two or more variants of one model, which routes every step of every episode.

It builds on routers, traces and the cost model, and imports neither environments nor training (but for `demo`, which brings a
model of its own). Where to find what:

    core        the values that the parts hand to each other, and the configuration
    http        the public port: a request from its arrival to its relayed answer; the server process; the OpenAPI description
    wire        what is in the bodies of requests and answers, one dialect a file
    sessions    who calls, and where a request stands: session, episode, step
    routing     who decides: routers and their files, budgets, exploration, scores of networks in a thread
    upstreams   where requests go: replicas, health, tries, deadlines
    records     what is kept of each step in a database, what is read from there, and what it says of policies
    auth        API keys and their limits
    telemetry   metrics and spans
    admin       the admin port; `page` is what it shows
    demo        two small servers of our own
"""
