"""The composition root: the only place that makes the parts and wires them together."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Final

import click
import uvicorn
import uvloop

from ekiben import __version__
from ekiben.catalog.catalog import Catalog
from ekiben.catalog.selection import Selection, spread_of
from ekiben.catalog.weights import WeightsStore
from ekiben.clock import SYSTEM_CLOCK
from ekiben.contract.policy import Policy
from ekiben.errors import ConfigError
from ekiben.fleet.decisions.burdens import Burdens
from ekiben.fleet.decisions.core import FleetCore
from ekiben.fleet.decisions.diary import Diary
from ekiben.fleet.decisions.starts import Starts
from ekiben.fleet.decisions.state import Rules
from ekiben.fleet.histories import Histories
from ekiben.fleet.memory.allowance import parse_allowance
from ekiben.fleet.memory.book import Book
from ekiben.fleet.memory.budgets import Budgets
from ekiben.fleet.memory.estimates import Estimates
from ekiben.fleet.policy.choice import choose_policy
from ekiben.fleet.preparation import MemoryBook, StartBook
from ekiben.fleet.preparer import CatalogPreparer
from ekiben.fleet.prewarm import Prewarmer
from ekiben.fleet.processes.berths import Berths
from ekiben.fleet.processes.fork_launcher import ForkLauncher
from ekiben.fleet.processes.launcher import Launcher, SpawnLauncher
from ekiben.fleet.supervisor import Supervisor
from ekiben.fleet.witness import Audience, Witness
from ekiben.gateway.app import Gateway, check_exposure
from ekiben.gateway.http.protocol import HttpProtocol
from ekiben.gateway.inference import PATHS
from ekiben.plugins.devices import usable_kinds
from ekiben.plugins.dialects import load_dialects
from ekiben.plugins.discovery import Plugins, discover
from ekiben.plugins.gpus import gpu_readers
from ekiben.runtime.process.footprint import children
from ekiben.settings import LoadedSettings, Settings, process_environment
from ekiben.store.batches import BatchStore
from ekiben.store.database import Database, sqlite_url
from ekiben.store.files import FileStore
from ekiben.store.pictures import PictureStore
from ekiben.store.records import Records
from ekiben.store.responses import ResponseStore
from ekiben.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SECRET_VARIABLES: Final = ("EKIBEN_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
"""Variables that no replica needs, and so none gets."""
THREAD_VARIABLES: Final = {"GOMP_SPINCOUNT": "1000"}
"""For replicas, unless the operator says otherwise. Engines compute with OpenMP, whose threads spin for
milliseconds when they wait for each other: time lost to all while something else wants the cores, such as
another model that starts. The parts of a step end within the time of so many turns."""


KEEP_ALIVE_S: Final = 75
"""How long an idle connection of a client is kept: longer than the pools of common clients and proxies."""
TRY_MODEL: Final = "smollm2-135m-instruct"


class Home:
    """The folder of one platform: made, locked, and described for those who look for a running platform."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.logs = path / "logs"
        self.caches = path / "cache"
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Make the folders and take the lock. Raises ConfigError when that cannot be."""
        try:
            for folder in (self.path, self.run, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self.path / "lock").open("w", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another platform runs on {self.path}: stop it, or choose another home with --home"
            ) from None
        except OSError as error:
            raise ConfigError(f"the home folder {self.path} cannot be used: {error}") from None

    def announce(self, url: str) -> None:
        """Let the command line find this platform."""
        path = self.run / "platform.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"pid": os.getpid(), "url": url}), encoding="utf-8")
        temporary.replace(path)

    def close(self) -> None:
        """Give the lock back. The kernel does the same when the process dies."""
        (self.run / "platform.json").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


class App:
    """One platform: `start` it on a running loop, serve `gateway`, `stop` it."""

    def __init__(self, loaded: LoadedSettings) -> None:
        self.settings = loaded.values
        self.home = Home(loaded.values.home)
        self._loaded = loaded
        self._database: Database | None = None
        self._records: Records | None = None
        self._budgets: Budgets | None = None
        self._supervisor: Supervisor | None = None
        self._prewarmer: Prewarmer | None = None
        self.gateway: Gateway | None = None

    async def start(self) -> Gateway:
        """Take the home and put everything together. Raises ConfigError; nothing is left behind then."""
        check_exposure(self.settings)
        self.home.open()
        try:
            self._database = Database.open(sqlite_url(self.home.path / "ekiben.db"))
            plugins = discover(self.home.path)
            catalog = Catalog(self._database, plugins)
            weights = WeightsStore(self.home.path, plugins)
            self._records = Records(self._database)
            policy = choose_policy(plugins, self.settings.policy)
            metrics = Metrics()
            self._prewarmer = make_prewarmer(self.settings, catalog, self._records, policy, metrics)
            self._budgets = make_budgets(self.settings)
            core = make_core(self.settings, policy)
            histories = Histories(core, self._records)
            histories.restore({spec.name for spec in catalog.specs()})
            memory = make_memory(self.settings, plugins, self._records, self._budgets)
            selection = Selection(
                plugins,
                weights,
                device=self.settings.device,
                budgets=self._budgets.now,
                learned=memory.learned,
            )
            self._supervisor = make_supervisor(
                self.settings,
                self.home,
                catalog,
                plugins,
                weights,
                core=core,
                memory=memory,
                selection=selection,
                starts=Starts(self._records),
                witness=Audience(metrics.fleet, self._prewarmer, histories),
            )
            metrics.watch(self._supervisor)
            self.gateway = Gateway(
                fleet=self._supervisor,
                catalog=catalog,
                plugins=plugins,
                settings=self._loaded,
                metrics=metrics,
                responses=ResponseStore(self._database),
                pictures=PictureStore(
                    self.home.path / "pictures", keep_s=self.settings.picture_url_s, clock=SYSTEM_CLOCK
                ),
                files=FileStore(self._database),
                batches=BatchStore(self._database),
                prewarms=self._prewarmer,
                explain=selection.explain,
                spoken=load_dialects(plugins, taken=PATHS, targets=PATHS),
            )
            pids = self._supervisor.replica_pids  # some may be children of an earlier platform
            self._budgets.watch(lambda: [*children(os.getpid()), *pids()])
            await self._supervisor.start()
            self._prewarmer.start(self._supervisor)
            await self.gateway.startup()
        except BaseException:
            self.home.close()
            raise
        return self.gateway

    def hurry(self) -> None:
        """Do not wait for running requests any longer."""
        if self._supervisor is not None:
            self._supervisor.kill_all()

    async def stop(self) -> None:
        """Let requests end, stop every replica, close everything. Returns when no process is left."""
        if self._prewarmer is not None:
            await self._prewarmer.stop()
        if self._supervisor is not None:
            await self._supervisor.shutdown(self.settings.drain_s + 5)
        if self.gateway is not None:
            await self.gateway.shutdown()
        if self._budgets is not None:
            self._budgets.close()
        if self._records is not None:
            self._records.close()
        if self._database is not None:
            self._database.close()
        self.home.close()


def make_core(settings: Settings, policy: Policy) -> FleetCore:
    """What decides."""
    rules = Rules(
        start_timeout_s=settings.start_timeout_s,
        drain_s=settings.drain_s,
        max_waiting=settings.max_waiting,
        w_max_s=settings.w_max_s,
        hang_s=settings.hang_s,
    )
    # A replica of an earlier platform may still be there, and must not have the same id.
    return FleetCore(rules, policy, prefix=f"{secrets.token_hex(2)}-")


def make_supervisor(
    settings: Settings,
    home: Home,
    catalog: Catalog,
    plugins: Plugins,
    weights: WeightsStore,
    *,
    core: FleetCore,
    memory: MemoryBook,
    selection: Selection,
    starts: StartBook,
    witness: Witness,
) -> Supervisor:
    """The fleet with its launcher and preparer."""
    return Supervisor(
        core=core,
        models=catalog,
        preparer=CatalogPreparer(
            choose=selection.choose,
            weights=weights,
            device="cpu" if settings.device == "auto" else settings.device,
            threads=settings.threads or len(os.sched_getaffinity(0)),
        ),
        launcher=make_launcher(settings, home, plugins),
        memory=memory,
        starts=starts,
        log_folder=home.logs,
        keep_alive_s=settings.keep_alive,
        wait_s=settings.wait_s,
        witness=witness,
    )


def make_prewarmer(
    settings: Settings, catalog: Catalog, records: Records, policy: Policy, metrics: Metrics
) -> Prewarmer:
    """Who starts models ahead, from what is remembered."""
    return Prewarmer(
        models=catalog,
        diary=Diary(records),
        burden=Burdens(records, policy, keep_alive_s=settings.keep_alive).of,
        keep_alive_s=settings.keep_alive,
        patterns=settings.prewarm == "auto",
        tell=lambda note: metrics.fleet.prewarmed(note.model, trigger=note.trigger, outcome=note.outcome),
    )


def make_budgets(settings: Settings) -> Budgets:
    """What the operator lets the platform hold of this machine. Raises ConfigError."""
    visible = process_environment().get("CUDA_VISIBLE_DEVICES")
    return Budgets(parse_allowance(settings.memory), gpus=gpu_readers(visible=visible))


def make_memory(settings: Settings, plugins: Plugins, records: Records, budgets: Budgets) -> Book:
    """Devices and needs."""
    return Book(
        needs=records,
        budgets=budgets.now,
        device=settings.device,
        engine_devices=partial(usable_kinds, plugins),
        estimates=Estimates(environment=replica_environment(settings), interpreter_of=plugins.interpreter),
        spread=partial(spread_of, plugins=plugins),
    )


def replica_environment(settings: Settings) -> dict[str, str]:
    """This process's, without secrets, and with what replicas have to know of the settings."""
    given = {k: v for k, v in process_environment().items() if k not in SECRET_VARIABLES}
    return THREAD_VARIABLES | given | {"EKIBEN_FETCH_URLS": str(settings.fetch_urls).lower()}


def make_launcher(settings: Settings, home: Home, plugins: Plugins) -> Launcher:
    """By forks where that is wanted and can be."""
    interpreter_of = plugins.interpreter
    environment = replica_environment(settings)
    berths = Berths(
        run_folder=home.run, log_folder=home.logs, cache_folder=home.caches, orphan_s=settings.orphan_s
    )
    if settings.zygote == "auto":
        try:
            return ForkLauncher(
                berths=berths,
                environment=environment,
                log_folder=home.logs,
                interpreter_of=interpreter_of,
            )
        except OSError as error:
            logger.warning("replicas are spawned, which takes longer: %s", error)
    return SpawnLauncher(berths=berths, environment=environment, interpreter_of=interpreter_of)


def run(loaded: LoadedSettings) -> int:
    """The platform in the foreground, until SIGINT or SIGTERM. Returns the exit code.

    Raises ConfigError when it cannot start.
    """
    settings = loaded.values
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with (
        bind(settings.host, settings.port) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve(App(loaded), listener))
    return 0


async def serve(app: App, listener: socket.socket) -> None:
    """Serve until a signal comes, then drain: what runs may end, what comes is told 503."""
    gateway = await app.start()
    server = _Server(
        uvicorn.Config(
            gateway,
            http=HttpProtocol,
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
    )
    url = url_of(listener)
    app.home.announce(url)
    gc.freeze()
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="http server")
    click.echo(greeting(url, with_key=app.settings.api_key is not None))
    asked = asyncio.create_task(server.asked_to_stop.wait(), name="signals")
    try:
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        gateway.drain()
        server.on_second_signal = app.hurry
    finally:
        asked.cancel()
        await app.stop()
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """uvicorn, but a signal is told to us first: replicas are drained while it still serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked_to_stop = asyncio.Event()
        self.on_second_signal: Callable[[], None] = self.asked_to_stop.set
        self._loop = asyncio.get_running_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again = self.asked_to_stop.is_set()
        self._loop.call_soon_threadsafe(self.on_second_signal if again else self.asked_to_stop.set)


def url_of(listener: socket.socket) -> str:
    """How a client on this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(url: str, *, with_key: bool) -> str:
    """What to try next: lines that work as they stand."""
    header = ' -H "authorization: Bearer $EKIBEN_API_KEY"' if with_key else ""
    key = "os.environ['EKIBEN_API_KEY']" if with_key else '"none"'
    imports = "import os\nfrom openai import OpenAI" if with_key else "from openai import OpenAI"
    return f"""\
Ekiben {__version__} is ready on {url}

Try it:
curl {url}/v1/chat/completions{header} -H "content-type: application/json" \\
  -d '{{"model": "{TRY_MODEL}", "messages": [{{"role": "user", "content": "Name three fruits."}}]}}'

Or in Python:
{imports}
client = OpenAI(base_url="{url}/v1", api_key={key})
messages = [{{"role": "user", "content": "Name three fruits."}}]
print(client.chat.completions.create(model="{TRY_MODEL}", messages=messages).choices[0].message.content)

All models: ekiben model ls    What runs: ekiben ps    Stop: Ctrl-C
"""


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}: choose another with --host and --port"
        ) from None
    listener.set_inheritable(False)
    return listener
