"""The records of the public API: plain values, no IO."""

from __future__ import annotations

import attrs

ISCSI_PORT = 3260  # RFC 7143, and the data services port of a Nutanix cluster


@attrs.frozen
class Portal:
    """A TCP address that serves iSCSI."""

    host: str
    port: int = ISCSI_PORT

    @classmethod
    def parse(cls, text: str) -> Portal:
        """Read ``host``, ``host:port`` or ``[v6]:port``, with or without a ``,group`` tail.

        Raises ValueError when the port is not a number.
        """
        address = text.partition(",")[0]
        host, colon, port = address.rpartition(":")
        if not colon or "]" in port or (":" in host and not host.startswith("[")):
            host, port = address, str(ISCSI_PORT)
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen
class Chap:
    """CHAP credentials; the secret stays out of repr, logs and error messages."""

    user: str
    secret: str = attrs.field(repr=False)


@attrs.frozen
class Target:
    """What to log in to."""

    portal: Portal
    iqn: str
    chap: Chap | None = None

    def __str__(self) -> str:
        return f"{self.iqn} at {self.portal}"


@attrs.frozen
class DiscoveredTarget:
    """A target that a portal offers, and where it can be reached."""

    iqn: str
    portals: tuple[Portal, ...]


@attrs.frozen
class LunInfo:
    """A disk of a target.

    ``size`` and ``block_size`` are bytes. ``serial`` is the unit serial number (VPD page 0x80),
    ``designator`` the NAA, EUI-64 or T10 identity as text (VPD page 0x83); either may be empty.
    """

    lun: int
    size: int
    block_size: int
    serial: str = ""
    designator: str = ""


@attrs.frozen
class Extent:
    """``length`` bytes from byte ``offset`` of a device."""

    offset: int = attrs.field(validator=attrs.validators.ge(0))
    length: int = attrs.field(validator=attrs.validators.ge(0))
