"""The one error that a user is meant to read: a sentence that names the place and the fix. And the end of what was told to stop."""


STOPPED = 75  # EX_TEMPFAIL of sysexits.h: start it again


class InputError(ValueError):
    """Input that cannot be used. The message names the file or flag, the field and the fix; the CLI prints it and exits with code 2."""


class Stopped(Exception):
    """What was told to stop, by SIGTERM or a cluster's notice, has stopped, and goes on where the same command is started again. The message says from where;
    the CLI prints it and exits with code STOPPED."""
