"""How the server stops: what is being written may end, what waits is turned away at once."""

from typing import Any

import uvicorn

from alphasteer.engines.protocol import GRACE
from alphasteer.engines.server.app import build_app
from alphasteer.engines.server.engine import Engine
from alphasteer.engines.server.settings import ServerSettings


class Server(uvicorn.Server):
    """uvicorn's, which alone would let everything that waits wait until its grace is over."""

    def __init__(self, engine: Engine, settings: ServerSettings, **options: Any) -> None:
        """Nothing listens yet; ``run()`` serves until it is told to stop.

        Args:
            options: uvicorn's own, such as ``host``, ``port`` and ``log_level``.
        """
        self._engine = engine
        super().__init__(uvicorn.Config(build_app(engine, settings), timeout_graceful_shutdown=GRACE, **options))

    async def shutdown(self, sockets: Any = None) -> None:
        """As soon as a signal has come."""
        self._engine.turn_away()
        await super().shutdown(sockets)
