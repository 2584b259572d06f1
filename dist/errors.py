"""Errors of the wire. Each message names rank, operation and tensor, and says what to do."""

from ..core.errors import PhalanxError


class CommunicatorError(PhalanxError, RuntimeError):
    """Base of everything that can go wrong between ranks."""

    from_peer: bool = False
    """True when another rank met the error and told us: it prints its traceback, we print one line."""


class MismatchError(CommunicatorError):
    """Ranks issued different operations, shapes or dtypes; shows both sides."""


class DeadlineError(CommunicatorError, TimeoutError):
    """An operation did not finish in time; names who is missing and for what."""


class PeerLostError(CommunicatorError):
    """Another rank died or left. A consequence: the cause is that rank's own message."""


class AbortedError(CommunicatorError):
    """Another rank ended the job; carries its reason. A consequence, printed as one line."""


class ReplicaError(CommunicatorError):
    """Parameters, state or buffers are not equal on all ranks; names the first differing tensor and the odd rank."""


class LaunchError(PhalanxError, RuntimeError):
    """The environment or the command line does not describe a job that can run."""
