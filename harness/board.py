"""Start the leaderboard's server, in a process of its own that never imports torch."""

import socket
import subprocess
import sys
from pathlib import Path

import leaderboard
from harness.database import is_current, rebuild
from harness.errors import UserError
from harness.progress import say

# Light or dark is the reader's choice, by their system or in the page's menu; only the colour of what can be pressed
# is ours: it stands out from either page by 4.5 : 1 or more.
THEME = {"theme.light.primaryColor": "#1B6CA8", "theme.dark.primaryColor": "#5BA7D9"}


def serve(results: Path, *, port: int, address: str, headless: bool) -> None:
    """Rebuild an old database, and serve the pages until interrupted.  Raises UserError where the port is taken."""
    if not results.is_dir():
        raise UserError(f"there is no folder {results} with results", "run something first, or name it by --results")
    _require_free(address, port)
    if not is_current(results):
        for problem in rebuild(results).problems:
            say(f"left out: {problem}")
    code = subprocess.call(server_command(results, port=port, address=address, headless=headless))
    if code > 0:
        raise UserError(f"the board's server stopped with code {code}", "its own message stands above")


def server_command(results: Path, *, port: int, address: str, headless: bool) -> list[str]:
    """What starts the server of a database that is there."""
    app = Path(leaderboard.__file__).with_name("app.py")
    options = {
        "server.port": port,
        "server.address": address,
        "server.headless": str(headless).lower(),
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "client.toolbarMode": "viewer",
        **THEME,
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(app), *flags, "--", str(results.resolve())]


def _require_free(address: str, port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"the board cannot listen at {address}:{port}: {error}", "choose another --port") from error
