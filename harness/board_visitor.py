"""Somebody who opens the board's pages and turns their filters without a browser, to time what the server does."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect

from harness.board import server_command
from harness.errors import UserError

PATIENCE: Final = 60.0
ATTEMPT_EVERY: Final = 0.02

# How Streamlit's messages call what they carry.
TABLES: Final = ("dataframe", "table", "arrow_data_frame", "arrow_table")
WIDGETS: Final = ("selectbox", "multiselect", "text_input", "number_input", "checkbox", "button_group")
SEARCHED: Final = "dit"


@dataclass(frozen=True)
class Shown:
    """What one run of a page's script sent: its first table after so many seconds (None for none), all of it after.

    `widgets` are the page's filters by their labels, in its order, as Streamlit's messages describe them.
    """

    first_table: float | None
    whole: float
    widgets: Mapping[str, Any]


class Visitor:
    """Somebody who has just come to a page of a server, which `shown` is what it sent then."""

    def __init__(self, connection: ClientConnection, page: str, began: float) -> None:
        self._connection, self._page = connection, page
        self.shown = self._run(began)

    def turn(self, widget: Any) -> Shown:
        """Give a filter another value: the last option of a list or of buttons, a text, the other state of a box."""
        return self._run(time.perf_counter(), _turned(widget))

    def _run(self, began: float, *turned: WidgetState) -> Shown:
        """Ask for the page and read all that comes.  What a reader would see in red is an error of ours."""
        ask = BackMsg()
        ask.rerun_script.page_name = self._page
        ask.rerun_script.widget_states.widgets.extend(turned)
        self._connection.send(ask.SerializeToString())
        first_table, widgets = None, {}
        for message in self._messages():
            assert message.WhichOneof("type") != "page_not_found", f"the board has no page {self._page}"
            kind, element = _element(message)
            assert kind != "exception", f"the page {self._page!r} shows an error: {element.message}"
            if kind in TABLES and first_table is None:
                first_table = time.perf_counter() - began
            if kind in WIDGETS and not element.disabled and getattr(element, "options", True):
                widgets[element.label] = element
        return Shown(first_table, time.perf_counter() - began, widgets)

    def _messages(self) -> Iterator[ForwardMsg]:
        """Until the page's script has run to its end."""
        while True:
            message = ForwardMsg.FromString(self._connection.recv(PATIENCE, decode=False))
            if message.WhichOneof("type") == "script_finished":
                assert message.script_finished != ForwardMsg.FINISHED_WITH_COMPILE_ERROR, "a page does not compile"
                if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    return
            yield message


class Server:
    """A board's server, which took `started` seconds to come up."""

    def __init__(self, address: str, started: float) -> None:
        self._address = address
        self.started = started

    @contextmanager
    def visited(self, page: str) -> Iterator[Visitor]:
        """A new visitor of a page, which is named as in its address: "" is the first one."""
        began = time.perf_counter()
        with connect(self._address, max_size=None, compression=None) as connection:
            yield Visitor(connection, page, began)


@contextmanager
def served(results: Path) -> Iterator[Server]:
    """A server of its own over a database that there is.  Raises UserError where it does not come up."""
    port = _free_port()
    command = server_command(results, port=port, address="localhost", headless=True)
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port, process)
            yield Server(f"ws://localhost:{port}/_stcore/stream", time.perf_counter() - started)
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until the server listens."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("localhost", port), timeout=PATIENCE).close()
        except OSError:
            time.sleep(ATTEMPT_EVERY)
        else:
            return
    raise UserError("the board's server does not come up", "try `python -m harness board`: its own message says why")


def _element(message: ForwardMsg) -> tuple[str | None, Any]:
    """What kind of element a message draws, and that; None where it draws none."""
    if message.WhichOneof("type") != "delta" or message.delta.WhichOneof("type") != "new_element":
        return None, None
    element = message.delta.new_element
    kind = element.WhichOneof("type")
    return kind, kind and getattr(element, kind)


def _turned(widget: Any) -> WidgetState:
    state = WidgetState(id=widget.id)
    match widget.DESCRIPTOR.name:
        case "Checkbox":
            state.bool_value = not widget.default
        case "NumberInput":
            state.double_value = widget.max
        case "TextInput":
            state.string_value = SEARCHED
        case "Selectbox":
            state.string_value = widget.options[-1]
        case "MultiSelect":
            state.string_array_value.data.append(widget.options[-1])
        case kind:
            assert kind == "ButtonGroup", kind
            state.string_array_value.data.append(widget.options[-1].content)
    return state
