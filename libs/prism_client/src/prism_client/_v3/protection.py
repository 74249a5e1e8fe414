"""Protection policies of v3, there called rules: whether Prism itself takes snapshots of a VM."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from prism_client._fields import Fields
from prism_client.errors import BadRequest, Forbidden, NotFound

if TYPE_CHECKING:
    from prism_client._v3.api import Api
    from prism_client.model import Vm

log = logging.getLogger(__name__)


@attrs.frozen
class ProtectionPolicies:
    """services.ProtectionPolicies over v3."""

    api: Api

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
        covering = self._covering(vm)
        if covering is not None:
            return covering
        return "of unknown name" if vm.protection_type == "RULE_PROTECTED" else None

    def names(self) -> list[str]:
        return list(self.api.records("protection policy", "protection_rules", _name))

    def _covering(self, vm: Vm) -> str | None:
        """Return the name of the first rule whose categories a VM has."""

        def name_if_covering(rule: Fields) -> str | None:
            if not _covers(rule.child("status", "resources", "category_filter"), vm):
                return None
            return _name(rule)

        try:
            rules = self.api.records("protection policy", "protection_rules", name_if_covering)
            return next(rules, None)
        except (Forbidden, NotFound, BadRequest) as exc:
            log.info("protection rules cannot be read: %s", exc)
            return None


def _name(rule: Fields) -> str:
    return rule.child("status").opt_text("name") or "of unknown name"


def _covers(category_filter: Fields, vm: Vm) -> bool:
    params = category_filter.child("params")
    matches = [
        any(f"{key}/{value}" in vm.category_ext_ids for value in params.texts(key))
        for key in params.value
    ]
    match_all = category_filter.opt_text("type") == "CATEGORIES_MATCH_ALL"
    return bool(matches) and (all(matches) if match_all else any(matches))
