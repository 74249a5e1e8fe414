"""Protection policies of v4: whether Prism itself takes recovery points of a VM."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import attrs

from prism_client._fields import Fields
from prism_client.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from prism_client._v4.api import Api
    from prism_client.model import Vm

log = logging.getLogger(__name__)


@attrs.frozen
class _Policy:
    ext_id: str
    name: str
    categories: tuple[str, ...]


def _policy(data: Fields) -> _Policy:
    name = data.opt_text("name") or ""
    return _Policy(data.text("extId"), name, data.texts("categoryIds"))


@attrs.frozen
class ProtectionPolicies:
    """services.ProtectionPolicies over v4; None where Prism has no API for policies."""

    api: Api | None

    def read(self) -> KnownPolicies:
        return KnownPolicies(self.api)

    def of_vm(self, vm: Vm) -> str | None:
        return self.read().of_vm(vm)

    def names(self) -> list[str]:
        return [policy.name or policy.ext_id for policy in _listed(self.api)]


@attrs.define
class KnownPolicies:
    """services.KnownPolicies over v4."""

    api: Api | None
    _policies: list[_Policy] | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def of_vm(self, vm: Vm) -> str | None:
        """The VM says whether it is protected; where it does not, its categories do."""
        if vm.protection_type == "UNPROTECTED":
            return None
        if vm.protection_type == "PD_PROTECTED":
            return "a protection domain"
        named = Fields(vm.raw, vm.name).child("protectionPolicyState", "policy").opt_text("extId")
        for policy in self._once():
            covers = not set(policy.categories).isdisjoint(vm.category_ext_ids)
            if policy.ext_id == named or (named is None and covers):
                return policy.name or policy.ext_id
        return named or ("of unknown name" if vm.protection_type == "RULE_PROTECTED" else None)

    def _once(self) -> list[_Policy]:
        with self._lock:
            if self._policies is None:
                self._policies = self._list()
            return self._policies

    def _list(self) -> list[_Policy]:
        try:
            return _listed(self.api)
        except (Forbidden, NotFound) as exc:
            log.info("protection policies cannot be read: %s", exc)
            return []


def _listed(api: Api | None) -> list[_Policy]:
    if api is None:
        return []
    return list(api.records("protection policy", "config/protection-policies", _policy))
