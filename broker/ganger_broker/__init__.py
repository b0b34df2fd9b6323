"""The contract that Ganger's workers, dispatcher and clients share.

Labels and what a step desires of them, the messages and how they are packed, the
names of exchanges, queues and Redis keys, the transport port with its adapters,
settings and errors. It knows neither the worker nor the dispatcher.
"""
