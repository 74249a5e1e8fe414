"""A Prism Central, a Prism Element and an iSCSI target on loopback, with real bytes behind them."""

__version__ = "0.1.0"
