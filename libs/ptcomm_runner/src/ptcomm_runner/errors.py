"""What can go wrong in the runner, as one line for whoever started it: what, where, what to do.

RunnerError
├── StoreBusy         another job is running in this store
├── StoreDamaged      a record or a stored file is not what the runner wrote
├── NoSuchJob         the job, or the full backup it stands on, is not in the store
├── UnsafeName        a name would leave its folder, or cannot be stored
├── BackendMissing    the backend cannot be started
├── BackendFatal      the backend said that the job failed (A), and now waits for its end
├── BackendFailed     the backend reported an error (E), after which nothing can be trusted
├── BackendGone       the backend closed its pipe, or died, in the middle of the conversation
├── BackendTimeout    the backend neither spoke nor listened, or did not end, for too long
├── BackendMisbehaved the backend said something that makes no sense here
└── JobCanceled       the user cancelled the job
"""

from __future__ import annotations


class RunnerError(Exception):
    """Base of every error the runner raises on purpose; its text is one line."""


class StoreBusy(RunnerError):
    """Another job is running in this store."""


class StoreDamaged(RunnerError):
    """A record or a stored file is not what the runner wrote."""


class NoSuchJob(RunnerError):
    """The job asked for, or the full backup it stands on, is not in the store."""


class UnsafeName(RunnerError):
    """A name from outside would leave its folder, or cannot be stored."""


class BackendMissing(RunnerError):
    """The backend cannot be started."""


class BackendFatal(RunnerError):
    """The backend said that the job failed, and now waits for its end."""


class BackendFailed(RunnerError):
    """The backend reported an error of the kind after which nothing can be trusted."""


class BackendGone(RunnerError):
    """The backend's pipe ended in the middle of the conversation."""


class BackendTimeout(RunnerError):
    """The backend neither spoke nor listened, or did not end, in the time allowed."""


class BackendMisbehaved(RunnerError):
    """The backend said something that makes no sense here."""


class JobCanceled(RunnerError):
    """The user cancelled the job."""
