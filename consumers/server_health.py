"""The endpoints for those who run the server: is it alive, does a version answer, its metrics."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from consumers.server_edge import ServerMetrics
from consumers.server_forms import StatusForm
from consumers.server_routes import Route, reply
from consumers.serving import Serving


class Health:
    """What these paths do."""

    def __init__(self, serving: Serving, metrics: ServerMetrics) -> None:
        self._serving, self._metrics = serving, metrics

    def routes(self) -> list[Route]:
        """Their paths."""
        return [
            Route("/livez", self.live, "Status"),
            Route("/readyz", self.ready, "Status", (503,)),
            Route("/metrics", self.metrics, ""),
        ]

    async def live(self) -> Response:
        """That the server answers at all."""
        return reply(StatusForm("alive"))

    async def ready(self) -> Response:
        """That a version answers: the champion, or the only one."""
        placed = self._serving.placed(None)
        await self._serving.ask(placed.version, lambda found: found.as_of)
        return reply(StatusForm("ready"))

    async def metrics(self) -> Response:
        """The metrics of this process, as Prometheus reads them."""
        for version, recall in self._serving.recalls().items():
            self._metrics.recall.labels(version).set(recall)
        text = generate_latest(self._metrics.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
