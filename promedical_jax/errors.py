"""The one error that a user is meant to read: a sentence that names the place and the fix."""


class InputError(ValueError):
    """Input that cannot be used. The message names the file or flag, the field and the fix; the CLI prints it and exits with code 2."""
