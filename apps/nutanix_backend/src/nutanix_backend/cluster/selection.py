"""Which VMs a job is about: by name, by category and by project.

A VM is taken once, however many values ask for it. A value that selects nothing is an error for
that value, and costs the others nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import prism_client

from nutanix_backend.cluster.inventory import every_vm, fits, is_pattern, matching
from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.names import DRILL, FIRMWARE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nutanix_backend.cluster.inventory import Source
    from nutanix_backend.settings.parameters import Settings


@attrs.frozen
class Missing:
    """A value that selects no VM, or a VM that cannot be used, and why."""

    wanted: str
    reason: str


@attrs.frozen
class SelectedVms:
    """The VMs of a job in the order of their names, and what was asked for in vain."""

    sources: tuple[Source, ...]
    missing: tuple[Missing, ...] = ()


def select(
    client: prism_client.PrismClient,
    settings: Settings,
    say: Callable[[str], None] | None = None,
    *,
    whole: bool = False,
) -> SelectedVms:
    """Find the VMs that `vm`, `category` and `project` ask for, without those of the excludes.

    `say` and `whole` are those of every_vm.
    Raises ParameterError when nothing is asked for, or not in a way that can be read, and
    SelectionError when no VM is left.
    """
    if not (settings.vm or settings.category or settings.project):
        raise ParameterError(
            "parameter vm is missing: name a VM, a category or a project, or use vm=* for all"
        )
    known = every_vm(client, settings.cluster, say=say, whole=whole)
    sources = [source for source in known if not source.vm.name.startswith((DRILL, FIRMWARE))]
    by_category = settings.category or settings.exclude_category
    categories = client.categories.list() if by_category else []
    search = Search(client, [source.vm for source in sources], categories)
    chosen: set[str] = set()
    missing: list[Missing] = []
    for found, problems in search.everything(settings):
        chosen |= found
        missing += problems
    excluded = search.excluded(settings)
    kept = [source for source in sources if source.vm.ext_id in chosen - excluded]
    lost = tuple(item for item in missing if not _is_excluded(item, settings.exclude_vm))
    if not kept:
        raise SelectionError(
            "; ".join(item.reason for item in lost)
            or "no VM is left to back up: exclude_vm or exclude_category leave out all that vm, "
            "category and project name"
        )
    return SelectedVms(tuple(kept), lost)


@attrs.frozen
class Search:
    """The VMs of Prism, looked through for values."""

    _client: prism_client.PrismClient
    _vms: Sequence[prism_client.Vm]
    _categories: Sequence[prism_client.Category]

    def everything(self, settings: Settings) -> Iterator[tuple[set[str], list[Missing]]]:
        """For each value: the ids of the VMs that it selects, and what of it cannot be had."""
        kinds: tuple[tuple[Sequence[str], Callable[[str], tuple[set[str], list[Missing]]]], ...] = (
            (settings.vm, self._named),
            (settings.category, self._categorised),
            (settings.project, self._of_project),
        )
        for values, find in kinds:
            for value in values:
                yield find(value)

    def excluded(self, settings: Settings) -> set[str]:
        """The ids of the VMs that nobody wants."""
        named = {vm.ext_id for value in settings.exclude_vm for vm in matching(value, self._vms)}
        return named.union(
            *(self._of_category("exclude_category", value) for value in settings.exclude_category)
        )

    def _named(self, value: str) -> tuple[set[str], list[Missing]]:
        found = matching(value, self._vms)
        lost = matching(value, self._client.unreadable.of("VM"))
        if not found and not lost:
            reason = f"no VM is called {value}: check vm= against the names in Prism"
            return set(), [Missing(f"vm={value}", reason)]
        if len(found) > 1 and not is_pattern(value):
            ids = ", ".join(sorted(vm.ext_id for vm in found))
            reason = f"{len(found)} VMs are called {value}: use the UUID, one of {ids}"
            return set(), [Missing(f"vm={value}", reason)]
        return {vm.ext_id for vm in found}, [
            Missing(f"VM {vm.name or vm.ext_id}", f"{vm}; see this VM in Prism") for vm in lost
        ]

    def _categorised(self, value: str) -> tuple[set[str], list[Missing]]:
        if found := self._of_category("category", value):
            return found, []
        reason = f"no VM has the category {value}: check category= against the categories in Prism"
        return set(), [Missing(f"category={value}", reason)]

    def _of_category(self, parameter: str, text: str) -> set[str]:
        """The ids of the VMs with a category "Key:Value"; raise ParameterError for other text.

        v4 gives ids to categories, in v3 the id of one is "key/value".
        """
        key, colon, value = (part.strip() for part in text.partition(":"))
        if not (key and colon and value):
            raise ParameterError(f"{parameter}={text} is no category: write Key:Value")
        named = (c.ext_id for c in self._categories if (c.key, c.value) == (key, value))
        ids = {*named, f"{key}/{value}"}
        return {vm.ext_id for vm in self._vms if not ids.isdisjoint(vm.category_ext_ids)}

    def _of_project(self, value: str) -> tuple[set[str], list[Missing]]:
        reason = f"no VM belongs to project {value}: check project= against the projects in Prism"
        ids = {value}
        try:
            ids |= {p.ext_id for p in self._client.projects.list() if p.name == value}
        except prism_client.ApiError as error:
            reason += f"; projects cannot be listed by name ({error}): use the UUID"
        if found := {vm.ext_id for vm in self._vms if vm.project_ext_id in ids}:
            return found, []
        return set(), [Missing(f"project={value}", reason)]


def _is_excluded(item: Missing, excluded: Sequence[str]) -> bool:
    """Whether a VM that cannot be read is one that nobody wants."""
    name = item.wanted.removeprefix("VM ")
    return item.wanted.startswith("VM ") and any(fits(value, name) for value in excluded)
