"""The transport on RabbitMQ, through aio-pika.

``session`` is one connection and what is declared through it, ``publisher`` and
``consumer`` outlive connections, ``transport`` keeps the three together. ``inspection``
looks at a broker from outside.
"""

from .inspection import BrokerState, inspect_broker
from .session import HEARTBEAT
from .transport import RabbitTransport

__all__ = ["HEARTBEAT", "BrokerState", "RabbitTransport", "inspect_broker"]
