"""`cnp` and `python -m cnp`: starts cnp/cli.py, or says what that needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process."""
    try:
        from cnp.cli import cli
    except ModuleNotFoundError as missing:
        if missing.name != "click":
            raise
        sys.exit("the command needs click: pip install 'cnp[cli]'")
    cli(prog_name="cnp")


if __name__ == "__main__":
    main()
