"""Protection policies of v4: whether Prism itself takes recovery points of a VM."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import attrs

from prism_client._fields import Fields
from prism_client.errors import Forbidden, NotFound

if TYPE_CHECKING:
    from prism_client._v4.api import Api
    from prism_client.model import Vm

log = logging.getLogger(__name__)


@attrs.frozen
class ProtectionPolicies:
    """services.ProtectionPolicies over v4; None where Prism has no API for policies."""

    api: Api | None

    def of_vm(self, vm: Vm) -> str | None:
        """The VM says whether it is protected; where it does not, its categories do."""
        if vm.protection_type == "UNPROTECTED":
            return None
        if vm.protection_type == "PD_PROTECTED":
            return "a protection domain"
        named = Fields(vm.raw, vm.name).child("protectionPolicyState", "policy").opt_text("extId")
        for policy in self._policies():
            covers = not set(policy.texts("categoryIds")).isdisjoint(vm.category_ext_ids)
            if policy.text("extId") == named or (named is None and covers):
                return policy.opt_text("name") or policy.text("extId")
        return named or ("of unknown name" if vm.protection_type == "RULE_PROTECTED" else None)

    def _policies(self) -> list[Fields]:
        if self.api is None:
            return []
        try:
            return list(self.api.list("config/protection-policies"))
        except (Forbidden, NotFound) as exc:
            log.info("protection policies cannot be read: %s", exc)
            return []
