"""`python -m captum_sig` is the command `captum-sig`."""

import sys

from captum_sig.cli.process import (
    INTERRUPTED,
    give_up_broken_streams,
    open_closed_streams,
    quitting_on_interrupt,
)


def run() -> None:
    """Run the command with the arguments of this process, and exit."""
    open_closed_streams()
    with quitting_on_interrupt():
        from captum_sig.cli.main import app
    try:
        app(prog_name="captum-sig")
    except KeyboardInterrupt:  # before a command runs
        sys.exit(INTERRUPTED)
    except OSError as error:  # of help on a full disk; commands report theirs
        sys.exit(f"captum-sig: {error}")
    finally:
        give_up_broken_streams()


if __name__ == "__main__":
    run()
