"""A small OpenAI-compatible server for a steered transformers model: requests at once share batches.

``Server(engine, settings).run()`` serves until it is stopped; ``Engine`` runs the model in a thread of its own.
"""

from alphasteer.engines.server.engine import Engine
from alphasteer.engines.server.settings import ServerSettings
from alphasteer.engines.server.stopping import Server

__all__ = ["Engine", "Server", "ServerSettings"]
