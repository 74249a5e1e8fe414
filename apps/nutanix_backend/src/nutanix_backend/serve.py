"""The conversation with the daemon, from Hello to the end of input, and how errors end it."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, NoReturn

import ptcomm
from command_line.cancel import Cancelled
from ptcomm import Ack, BackendHello, End, EndOfInput, Finish, Message, Phase, PluginHello, Severity

from nutanix_backend.errors import BackendError, ParameterError, as_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ptcomm.stdio import Endpoint

    from nutanix_backend.job import JobContext
    from nutanix_backend.settings.parameters import Settings
    from nutanix_backend.settings.secrecy import Secrets

log = logging.getLogger(__name__)

CANCEL_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


def serve(endpoint: Endpoint) -> None:
    """Run the one job that the daemon asks for; every error becomes one fatal line in its log."""
    cancel_on_signal()
    try:
        _converse(endpoint)
    except (Cancelled, ptcomm.PeerGone) as error:
        log.warning("the job ended early: %s", error)
    except ptcomm.PtcommError as error:
        _fail(endpoint, f"the daemon does not speak as expected: {error}")
    except Exception as error:
        log.exception("the job failed")
        _fail(endpoint, as_line(error))


def cancel_on_signal() -> None:
    """Make each of the signals by which a job is cancelled raise Cancelled, once."""

    def cancel(number: int, _frame: FrameType | None) -> NoReturn:
        for signal_number in CANCEL_SIGNALS:
            signal.signal(signal_number, signal.SIG_IGN)
        raise Cancelled(f"cancelled by {signal.Signals(number).name}")

    for signal_number in CANCEL_SIGNALS:
        signal.signal(signal_number, cancel)


def _converse(endpoint: Endpoint) -> None:
    endpoint.expect(PluginHello)
    endpoint.send(BackendHello())
    from nutanix_backend.settings import secrecy  # noqa: PLC0415 - see _job

    secrecy.keep_memory_private()
    info = endpoint.expect(ptcomm.Job)
    endpoint.send(Ack())
    given = endpoint.expect(ptcomm.Parameters).items
    settings, secrets = _settings(endpoint, info, given)
    endpoint.send(Ack())
    try:
        _run(endpoint, info, settings)
    except (Cancelled, ptcomm.PtcommError):
        raise
    except Exception as error:
        log.exception("the job failed")
        _fail(endpoint, secrets.hide(as_line(error)))


def _run(endpoint: Endpoint, info: ptcomm.Job, settings: Settings) -> None:
    """Do the job, from its start to the end of input."""
    from nutanix_backend import adapter  # noqa: PLC0415 - see _job

    phase = endpoint.expect(ptcomm.Start).phase
    adapter.refuse_all_but_restores(info.namespace, phase)
    run = _job(phase, settings)
    endpoint.send(Ack())
    from nutanix_backend.job import JobContext  # noqa: PLC0415 - see _job

    context = JobContext(endpoint, info, settings)
    if settings.prism_insecure:
        context.warn(
            "prism_insecure=yes: the certificate of Prism is not verified; an attacker on "
            "the network can read and change the connection"
        )
    run(context)
    _until_end(endpoint)


def _settings(
    endpoint: Endpoint, info: ptcomm.Job, given: tuple[tuple[str, str], ...]
) -> tuple[Settings, Secrets]:
    """Read the parameters, give up root's rights, and start the log.

    A restore is failed at its end, see refusal.
    """
    from nutanix_backend import adapter  # noqa: PLC0415 - see _job
    from nutanix_backend.settings import rights, secrecy  # noqa: PLC0415 - see _job

    try:
        settings = adapter.settings(info, given)
        rights.give_up(settings, info)
        secrets = secrecy.Secrets(settings)
        start_log(settings, secrets)
    except BackendError as error:
        if info.type is ptcomm.JobType.RESTORE:
            from nutanix_backend.restore.refusal import refuse  # noqa: PLC0415 - see _job

            refuse(endpoint, error)
        raise
    return settings, secrets


def _job(phase: Phase, settings: Settings) -> Callable[[JobContext], None]:
    """The code for a kind of job, imported late: the daemon waits for Hello, not for requests."""
    if phase is Phase.BACKUP and settings.mode == "replicate":
        from nutanix_backend.replicate import job as replicate  # noqa: PLC0415

        return replicate.run
    from nutanix_backend.backup import groups as backup  # noqa: PLC0415
    from nutanix_backend.queries import estimate, listing, query  # noqa: PLC0415
    from nutanix_backend.restore import job as restore  # noqa: PLC0415

    jobs = {
        Phase.BACKUP: backup.run,
        Phase.ESTIMATE: estimate.run,
        Phase.LISTING: listing.run,
        Phase.QUERY: query.run,
        Phase.RESTORE: restore.run,
    }
    return jobs[phase]


def _until_end(endpoint: Endpoint) -> None:
    while True:
        match endpoint.receive():
            case Finish() | End():
                endpoint.send(Ack())
            case EndOfInput():
                return


def _fail(endpoint: Endpoint, text: str) -> None:
    """Tell the daemon that the job failed, then answer it until it closes the connection.

    After a fatal error too, bacula-fd 15.0.3 ends a restore with Finish and waits for the answer.
    """
    try:
        endpoint.send(Message(Severity.FATAL, text))
        _until_end(endpoint)
    except (Cancelled, ptcomm.PtcommError) as error:
        log.warning("the daemon is gone: %s", error)


def start_log(settings: Settings, secrets: logging.Filter) -> None:
    """Log to a file in the state folder, and send there what any library writes to stderr."""
    from nutanix_backend.log_file import LogFile  # noqa: PLC0415 - see _job

    path = settings.state_dir / "log" / "backend.log"
    try:
        handler = LogFile(path)
    except OSError as error:
        raise ParameterError(
            f"state_dir {settings.state_dir} is not usable: {error.strerror}: check path and rights"
        ) from error
    handler.addFilter(secrets)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(
        handlers=[handler], level=logging.DEBUG if settings.debug else logging.INFO, force=True
    )
    handler.take_stderr()
