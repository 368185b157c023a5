"""Runs the command line of promedical while Python's own audit events are watched: `python guard.py LOG PORT ARGUMENTS...`.

Every connection, datagram and name look-up that is not of 127.0.0.1 at PORT, and every other program that is started, is an error at once, and a line in LOG,
where it stays if somebody swallows the error. It sees what Python's sockets do, whoever uses them; not what compiled code does by itself.
"""

import sys

HERE = "127.0.0.1"
LOOKED_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
SENT = ("socket.connect", "socket.sendto", "socket.sendmsg")
STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")


def watch(log: str, port: int) -> None:
    def hook(event: str, arguments: tuple) -> None:
        if event in SENT:
            fine = arguments[1] in ((HERE, port), None)  # None: a datagram on a socket that is connected, and was looked at then
        elif event in LOOKED_UP:
            fine = arguments[0] in (HERE, HERE.encode(), (HERE, port))
        else:
            fine = event not in STARTED
        if not fine:
            with open(log, "a") as file:
                file.write(f"{event} {arguments[1] if event in SENT else arguments}\n")
            raise PermissionError(event)

    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
    if sys.argv[3] == "-c":
        exec(sys.argv[4])
    else:
        from promedical_jax.cli import main

        sys.exit(main(sys.argv[3:]))
