"""Protection policies of v3, there called rules: whether Prism itself takes snapshots of a VM."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import attrs

from prism_client._fields import Fields
from prism_client.errors import BadRequest, Forbidden, NotFound

if TYPE_CHECKING:
    from prism_client._v3.api import Api
    from prism_client.model import Vm

log = logging.getLogger(__name__)


@attrs.frozen
class _Rule:
    name: str
    category_filter: Fields


def _rule(rule: Fields) -> _Rule:
    status = rule.child("status")
    name = status.opt_text("name") or "of unknown name"
    return _Rule(name, status.child("resources", "category_filter"))


@attrs.frozen
class ProtectionPolicies:
    """services.ProtectionPolicies over v3."""

    api: Api

    def read(self) -> KnownPolicies:
        return KnownPolicies(self.api)

    def of_vm(self, vm: Vm) -> str | None:
        return self.read().of_vm(vm)

    def names(self) -> list[str]:
        return [rule.name for rule in _listed(self.api)]


@attrs.define
class KnownPolicies:
    """services.KnownPolicies over v3."""

    api: Api
    _rules: list[_Rule] | None = None
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def of_vm(self, vm: Vm) -> str | None:
        """The VM says whether it is protected; where it does not, its categories do."""
        if vm.protection_type == "UNPROTECTED":
            return None
        if vm.protection_type == "PD_PROTECTED":
            return "a protection domain"
        resources = Fields(vm.raw, vm.name).child("status", "resources")
        policy = resources.child("protection_policy_state", "policy_reference")
        named = policy.opt_text("name") or policy.opt_text("uuid")
        if named is not None:
            return named
        covering = (rule.name for rule in self._once() if _covers(rule.category_filter, vm))
        unnamed = "of unknown name" if vm.protection_type == "RULE_PROTECTED" else None
        return next(covering, unnamed)

    def _once(self) -> list[_Rule]:
        with self._lock:
            if self._rules is None:
                self._rules = self._list()
            return self._rules

    def _list(self) -> list[_Rule]:
        try:
            return _listed(self.api)
        except (Forbidden, NotFound, BadRequest) as exc:
            log.info("protection rules cannot be read: %s", exc)
            return []


def _listed(api: Api) -> list[_Rule]:
    return list(api.records("protection policy", "protection_rules", _rule))


def _covers(category_filter: Fields, vm: Vm) -> bool:
    params = category_filter.child("params")
    matches = [
        any(f"{key}/{value}" in vm.category_ext_ids for value in params.texts(key))
        for key in params.value
    ]
    match_all = category_filter.opt_text("type") == "CATEGORIES_MATCH_ALL"
    return bool(matches) and (all(matches) if match_all else any(matches))
