"""The transport on RabbitMQ, through aio-pika.

``session`` is one connection and what is declared through it, ``publisher`` and
``consumer`` outlive connections, ``transport`` keeps the three together.
"""

from .transport import RabbitTransport

__all__ = ["RabbitTransport"]
