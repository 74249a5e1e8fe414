"""Whether a VM lives: it is switched on, and watched until it shows the sign that is asked for.

What Prism can tell of a guest is little: whether the VM is on, whether its guest tools answer, and
the addresses of its network cards. It does not tell that a guest was reset, and no API gives the
text of a serial console; that is read from a folder where somebody else writes it.
"""

from __future__ import annotations

import socket
import time
from enum import Enum
from typing import TYPE_CHECKING

import attrs
from command_line.text import printable
from durable.names import component

from nutanix_backend.errors import DrillFailed, ParameterError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prism_client import PrismClient, Subnet, Vm

    from nutanix_backend.settings.table import DrillOptions

PAUSE = 2.0
"""Seconds between two looks at a VM."""
CONNECT = 2.0
"""Seconds that a port may take to answer."""
SETTLING = 30.0
"""Seconds that Prism may take to say that a VM is on."""
LONGEST_CONSOLE = 1 << 20
"""Bytes of the end of a serial console that are looked at."""


class Sign(Enum):
    """What shows that a VM lives, as `drill_sign` names it."""

    ON = "on"
    TOOLS = "tools"
    CONSOLE = "console"
    PORT = "port"


@attrs.frozen
class DrillVerdict:
    """A VM lives: the sign that it gave, in words, after so many seconds."""

    sign: Sign
    seen: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.seen}, {self.seconds:.0f} s after it was switched on"


def check_options(options: DrillOptions) -> None:
    """Raise ParameterError when a sign is asked for that cannot be seen."""
    if options.drill_sign == Sign.CONSOLE.value and options.drill_console is None:
        raise ParameterError(
            "drill_sign=console needs drill_console, the folder where serial consoles are written"
        )
    if options.drill_sign == Sign.PORT.value and not (options.drill_port and options.drill_subnet):
        raise ParameterError("drill_sign=port needs drill_port and drill_subnet")
    if options.drill_subnet and options.drill_sign != Sign.PORT.value:
        raise ParameterError("drill_subnet is for drill_sign=port: leave it out")


@attrs.define
class Watch:
    """Watches one VM; `check_cancelled` raises when the job was given up. Times in seconds."""

    client: PrismClient
    vm_id: str
    options: DrillOptions
    check_cancelled: Callable[[], None]
    pause: float = PAUSE
    _began: float = attrs.field(init=False, default=0.0)
    _was_on: bool = attrs.field(init=False, default=False)

    def run(self) -> DrillVerdict:
        """Switch the VM on and wait for the sign; raise DrillFailed, PrismError."""
        self.client.vms.power_on(self.vm_id)
        self._began = time.monotonic()
        while True:
            self.check_cancelled()
            vm = self.client.vms.get(self.vm_id)
            seconds = self._seconds()
            if vm.power_state == "ON":
                self._was_on = True
            elif self._was_on or seconds >= min(SETTLING, self.options.drill_wait):
                raise DrillFailed(
                    f"it was {vm.power_state} {seconds:.0f} s after it was switched on"
                    f"{self._last_words()}"
                )
            if verdict := self._look(vm):
                return verdict
            if seconds >= self.options.drill_wait:
                return self._at_the_end()
            time.sleep(min(self.pause, max(0.0, self.options.drill_wait - self._seconds())))

    def _look(self, vm: Vm) -> DrillVerdict | None:
        """Look for the sign; guest tools are one too where it is enough that the VM stays on."""
        match Sign(self.options.drill_sign):
            case Sign.ON | Sign.TOOLS:
                if vm.guest_tools and vm.guest_tools.is_reachable:
                    return self._verdict(Sign.TOOLS, "its guest tools answer")
            case Sign.CONSOLE:
                if line := self._line():
                    return self._verdict(Sign.CONSOLE, f"its serial console says {line!r}")
            case Sign.PORT:
                if address := self._answering(vm):
                    seen = f"port {self.options.drill_port} of {address} is open"
                    return self._verdict(Sign.PORT, seen)
        return None

    def _at_the_end(self) -> DrillVerdict:
        if self.options.drill_sign == Sign.ON.value and self._was_on:
            seen = "it stayed on, and nothing more is known of it"
            return self._verdict(Sign.ON, seen)
        raise DrillFailed(
            f"it was on for {self._seconds():.0f} s, but {self._missing()}{self._last_words()}"
        )

    def _missing(self) -> str:
        match Sign(self.options.drill_sign):
            case Sign.CONSOLE:
                return f"no line of its serial console has {self.options.drill_line!r}"
            case Sign.PORT:
                return f"its port {self.options.drill_port} did not answer"
            case _:
                return "its guest tools did not answer"

    def _last_words(self) -> str:
        """The last line of the console, where there is one: it often says why."""
        if self.options.drill_console is None:
            return ""
        lines = [line for line in self._console(self.options.drill_console) if line]
        return (
            f"; the last line of its serial console is {lines[-1]!r}"
            if lines
            else "; its serial console is empty"
        )

    def _line(self) -> str:
        """The first line of the console that has the text; empty when none has."""
        folder = self.options.drill_console
        lines = self._console(folder) if folder else []
        return next((line for line in lines if self.options.drill_line in line), "")

    def _console(self, folder: Path) -> list[str]:
        path = folder / f"{component(self.vm_id)}.console"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LONGEST_CONSOLE))
                text = file.read(LONGEST_CONSOLE).decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DrillFailed(f"{path} cannot be read: {error.strerror}") from error
        return [printable(line.strip())[:200] for line in text.splitlines()]

    def _answering(self, vm: Vm) -> str:
        """The address of the VM whose port is open; empty when there is none."""
        for nic in vm.nics:
            for address in nic.addresses:
                try:
                    socket.create_connection((address, self.options.drill_port), CONNECT).close()
                except OSError:
                    continue
                return address
        return ""

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _verdict(self, sign: Sign, seen: str) -> DrillVerdict:
        return DrillVerdict(sign, seen, self._seconds())


def subnet_for(options: DrillOptions, subnets: tuple[Subnet, ...]) -> str | None:
    """The id of `drill_subnet`; None when none is asked for. Raises ParameterError."""
    wanted = options.drill_subnet
    if not wanted:
        return None
    found = [subnet.ext_id for subnet in subnets if wanted in {subnet.name, subnet.ext_id}]
    if len(found) != 1:
        known = ", ".join(sorted(subnet.name for subnet in subnets)) or "none"
        raise ParameterError(
            f"drill_subnet: {len(found)} subnets are called {wanted} on that cluster, which has "
            f"{known}"
        )
    return found[0]
