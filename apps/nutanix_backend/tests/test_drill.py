"""What a drill makes of what Prism says; with VMs that really run it is tried in suites/drill."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from nutanix_backend.ahv import watch
from nutanix_backend.ahv.watch import DrillVerdict, Sign, Watch, check_options, subnet_for
from nutanix_backend.errors import DrillFailed, ParameterError
from nutanix_backend.settings.parameters import parse
from prism_client import GuestTools, Nic, Subnet
from ptcomm import Level, Severity
from ptcomm_runner.catalog import Status

from apps.nutanix_backend.tests.conftest import MIB, said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prism_lab import Lab

    from apps.nutanix_backend.tests.conftest import Product

VM_ID = "11111111-1111-4111-8111-111111111111"


@attrs.frozen
class FakeVm:
    """What Prism says of the VM at one moment."""

    power_state: str = "ON"
    guest_tools: GuestTools | None = None
    nics: tuple[Nic, ...] = ()


@attrs.define
class FakeVms:
    """A Prism that says one thing after the other, and repeats the last."""

    told: list[FakeVm]
    is_on: bool = False

    @property
    def vms(self) -> FakeVms:
        return self

    def power_on(self, ext_id: str) -> None:
        assert ext_id == VM_ID
        self.is_on = True

    def get(self, ext_id: str) -> FakeVm:
        assert self.is_on
        assert ext_id == VM_ID
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


@attrs.define
class Clock:
    """Seconds that pass when somebody sleeps, and some each time that somebody looks."""

    a_look: float
    now: float = 0.0

    def monotonic(self) -> float:
        self.now += self.a_look
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def watched(
    *told: FakeVm, check: Callable[[], None] = lambda: None, a_look: float = 0.001, **given: object
) -> DrillVerdict:
    settings = parse([(name, str(text)) for name, text in {"drill_wait": 0.2, **given}.items()])
    client: Any = FakeVms(list(told))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "time", Clock(a_look))
        return Watch(client, VM_ID, settings, check, pause=0.01).run()


def failed(*told: FakeVm, **given: Any) -> str:
    with pytest.raises(DrillFailed) as caught:
        watched(*told, **given)
    return str(caught.value)


TOOLS = GuestTools(is_enabled=True, is_reachable=True, can_quiesce=False)
DEAF = attrs.evolve(TOOLS, is_reachable=False)


@pytest.mark.parametrize("sign", ["on", "tools"])
def test_guest_tools_that_answer_are_waited_for(sign: str) -> None:
    verdict = watched(
        FakeVm(), FakeVm(guest_tools=DEAF), FakeVm(guest_tools=TOOLS), drill_sign=sign
    )
    assert verdict.sign is Sign.TOOLS


def test_prism_may_be_late_to_say_that_a_vm_is_on() -> None:
    assert watched(FakeVm("OFF"), FakeVm("OFF"), FakeVm()).sign is Sign.ON


@pytest.mark.parametrize("state", ["OFF", "PAUSED"])
def test_a_vm_that_does_not_stay_on(state: str) -> None:
    assert f"it was {state}" in failed(FakeVm(), FakeVm(state))
    assert f"it was {state}" in failed(FakeVm(state))


def test_a_vm_that_is_looked_at_just_before_the_time_is_over() -> None:
    """The time to wait ends between two readings of the clock in one round."""
    assert "it was PAUSED" in failed(FakeVm("PAUSED"), a_look=0.15)


def test_a_port_that_is_open() -> None:
    """On an address that Prism learns late; another address does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))
        port = server.getsockname()[1]
        nic = Nic("n", "m", "s", connected=True, model="")
        late = attrs.evolve(nic, addresses=("127.0.0.2", "127.0.0.1"))
        looking: dict[str, Any] = {
            "drill_sign": "port",
            "drill_port": port,
            "drill_subnet": "isolated",
        }
        verdict = watched(FakeVm(nics=(nic,)), FakeVm(nics=(late,)), drill_wait=60, **looking)
        assert verdict.sign is Sign.PORT
        assert f"port {port} of 127.0.0.1 is open" in str(verdict)
        assert f"its port {port} did not answer" in failed(FakeVm(nics=(nic,)), **looking)


def test_a_line_of_the_console(tmp_path: Path) -> None:
    looking: dict[str, Any] = {"drill_sign": "console", "drill_console": tmp_path}
    assert "its serial console is empty" in failed(FakeVm(), **looking)
    console = tmp_path / f"{VM_ID}.console"
    console.write_bytes(b"booting\r\n\x1b[0mweb01 login: ")
    assert "'?[0mweb01 login:'" in str(watched(FakeVm(), **looking))
    words = failed(FakeVm(), drill_line="ready", **looking)
    assert "no line of its serial console has 'ready'" in words
    assert "the last line of its serial console is '?[0mweb01 login:'" in words
    console.unlink()
    console.mkdir()
    assert "cannot be read" in failed(FakeVm(), **looking)


def test_a_job_that_is_given_up() -> None:
    def cancelled() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watched(FakeVm(), check=cancelled)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"drill_sign": "console"}, "needs drill_console"),
        ({"drill_sign": "port", "drill_port": "22"}, "needs drill_port and drill_subnet"),
        ({"drill_sign": "port", "drill_subnet": "x"}, "needs drill_port and drill_subnet"),
        ({"drill_subnet": "x"}, "drill_subnet is for drill_sign=port"),
    ],
)
def test_a_sign_that_cannot_be_seen(given: dict[str, str], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_options(parse(given.items()))


@pytest.mark.parametrize("text", ["0", "65536", "ssh", "-1"])
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(ParameterError, match="is not a number from 1 to 65535"):
        parse([("drill_port", text)])


def test_the_subnet_of_a_drill() -> None:
    subnets = (Subnet("1", "isolated", None, None), Subnet("2", "two", None, 2))
    assert subnet_for(parse([]), subnets) is None
    assert subnet_for(parse([("drill_subnet", "isolated")]), subnets) == "1"
    with pytest.raises(ParameterError, match="0 subnets are called x on that cluster, which has"):
        subnet_for(parse([("drill_subnet", "x")]), subnets)


# --- as a job ------------------------------------------------------------------------------------


def drilled(product: Product, **others: Any) -> dict[str, Any]:
    """The request that made the VM of a drill, which went well."""
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    result = product.restore(restore_drill="yes", drill_wait="1", **others)
    assert result.status is Status.GOOD, said(result, Severity.FATAL)
    return asked_for(product.lab)


def asked_for(lab: Lab) -> dict[str, Any]:
    """The body of the last request for the VM of a drill."""
    made = [e.body for e in lab.exchanges if e.method == "POST" and e.target.endswith("config/vms")]
    return next(b for b in reversed(made) if b["name"].startswith("podheitor drill"))


@pytest.mark.parametrize("where", ["/", "/tmp/bacula-restores"])
def test_the_vm_of_a_drill_reaches_nobody(product: Product, where: str) -> None:
    body = drilled(product, where=where, restore_identity="auto")
    (nic,) = body["nics"]
    assert nic["backingInfo"]["isConnected"] is False
    assert "categories" not in body
    assert "biosUuid" not in body


def test_a_job_that_looks_for_a_port_in_vain(product: Product, lab: Lab) -> None:
    """The card is on the isolated subnet, and nothing answers there."""
    guest = product.guest(MIB)
    product.good_backup(Level.FULL, guest)
    result = product.restore(
        restore_drill="yes", drill_wait="1", drill_sign="port", drill_port="22",
        drill_subnet="lab-net-2",
    )  # fmt: skip
    (line,) = said(result, Severity.FATAL)
    assert f"the drill of VM {guest.name} as of job" in line
    assert "its port 22 did not answer" in line
    (nic,) = asked_for(lab)["nics"]
    subnets = {subnet.name: key for key, subnet in lab._world.subnets.items()}
    assert nic["networkInfo"]["subnet"]["extId"] == subnets["lab-net-2"]
    assert nic["backingInfo"].get("isConnected", True) is True


@pytest.mark.parametrize("given", [{"restore_to": "disk"}, {"disk_path": "/dev/null"}])
def test_a_drill_is_a_restore_of_its_own_kind(product: Product, given: dict[str, Any]) -> None:
    product.good_backup(Level.FULL, product.guest(MIB))
    result = product.restore(restore_drill="yes", **given)
    assert "restore_drill=yes makes a VM and removes it" in said(result, Severity.FATAL)[0]
