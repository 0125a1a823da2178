"""`freshet serve`: the query API over HTTP, until it is told to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CollectorRegistry

from consumers.catalogue_input import followed_catalogue
from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.event_rules import event_rules
from consumers.eventlog.segments import EVENTS, Segments
from consumers.exposing import EXPOSURES, Exposing, ExposureMetrics
from consumers.kafka_settings import client_settings
from consumers.machine_metrics import announced, process_registry
from consumers.posting import DurableLog, Intake, KafkaPosts, SegmentPosts
from consumers.server import build
from consumers.server_access import Access
from consumers.server_protocol import HEAD_BYTES, GuardedProtocol
from consumers.serving import Serving
from consumers.settings import Settings
from state.experiments import Experiments
from streaming.errors import SettingError

logger = structlog.get_logger()

_GRACE_S = 10  # for requests that are being answered when the server is told to stop
_KEEP_ALIVE_S = 30


def serve(
    *,
    host: str | None = None,
    port: int | None = None,
    openapi: Switch = False,
) -> int:
    """Answer queries over HTTP, and take events in.

    Any number of servers may run on one home. Each prints its address on standard output.

    Parameters
    ----------
    host
        Address to listen on (serve.host). Beyond this machine it needs serve.token, best given as
        FRESHET_SERVE__TOKEN.
    port
        Port to listen on (serve.port); 0 is any free port.
    openapi
        Print the OpenAPI document and end.
    """
    settings = current_settings()
    host = settings.serve.host if host is None else host
    port = settings.serve.port if port is None else port
    must_be_guarded(host, settings)
    with ExitStack() as held:
        catalogue = None if openapi else held.enter_context(followed_catalogue(settings))
        serving = held.enter_context(closing(Serving(settings.home, catalogue)))
        intake = held.enter_context(closing(Intake(_log(settings))))
        registry = process_registry()
        exposing = held.enter_context(closing(_exposing(settings, registry)))
        app = build(
            serving,
            intake,
            event_rules(settings),
            access=Access(settings.serve.token, host),
            max_body_bytes=settings.serve.max_body_bytes,
            registry=registry,
            exposing=exposing,
        )
        if openapi:
            from consumers.server_forms import document_text

            print(document_text(app.openapi()), end="")
            return 0
        listener = held.enter_context(_listener(host, port))
        bound: int = listener.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, shown)
        try:
            held.enter_context(announced(settings.home, f"serve-{bound}", f"{here}:{bound}"))
        except OSError as error:  # a home that may only be read can be served
            logger.warning("not_announced", reason=str(error))
        print(f"http://{shown}:{bound}", flush=True)
        logger.info("serving", address=f"http://{shown}:{bound}", home=str(settings.home))
        _Server(_config(app, settings)).run(sockets=[listener])
    return 0


def must_be_guarded(host: str, settings: Settings) -> None:
    """Refuse to open the writing endpoints to other machines without a token.

    Raises:
        SettingError: the address is one of other machines, and there is no token.
    """
    if settings.serve.token or _is_loopback(host):
        return
    raise SettingError(
        f"serve.host {host} can be reached from other machines, so writing needs a token: set serve.token "
        "(FRESHET_SERVE__TOKEN), or listen on 127.0.0.1."
    )


class _Server(uvicorn.Server):
    """uvicorn that ends with code 0 when it is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams of open pages, which would go on for ever; then finish what is being answered."""
        self.config.app.state.feed.stop()  # type: ignore[union-attr]
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C finish what is being answered; a second one does not."""

        def stop(number: int, _: FrameType | None) -> None:
            if self.should_exit:
                self.force_exit = True
            else:
                print("stopping: finishing what is being answered", file=sys.stderr)
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _config(app: object, settings: Settings) -> uvicorn.Config:
    class Protocol(GuardedProtocol):
        request_s = settings.serve.request_timeout

    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Protocol,
        loop="asyncio",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


def _log(settings: Settings) -> DurableLog:
    """Where posted events go: Kafka's topic where there is one, else the home directory."""
    if not settings.kafka.bootstrap_servers:
        return SegmentPosts(Segments(settings.home / EVENTS))
    from kafka import KafkaProducer

    return KafkaPosts(settings.events.topic, client_settings(settings, KafkaProducer))


def _exposing(settings: Settings, registry: CollectorRegistry) -> Exposing:
    """What notes served lists, where posted events go, too."""
    experiments, metrics = Experiments(settings.home), ExposureMetrics(registry)
    if not settings.kafka.bootstrap_servers:
        log: DurableLog = SegmentPosts(Segments(settings.home / EXPOSURES))
        return Exposing(log, experiments, metrics)
    from kafka import KafkaProducer

    log = KafkaPosts(settings.events.exposures_topic, client_settings(settings, KafkaProducer))
    return Exposing(log, experiments, metrics)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
        # What is accepted inherits it. asyncio sets it only where it made the listener; without it the end
        # of an answer waits 40 ms for the other side to acknowledge its head.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise SettingError(
            f"serve.host {host}, serve.port {port}: cannot listen there ({error.strerror}). Choose others; "
            "port 0 is any free one."
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
