"""Which VMs a job selects: by name, category and project; and which are new or gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from command_line import progress
from nutanix_backend.cluster import inventory, selection
from nutanix_backend.cluster.inventory import is_pattern, matching
from nutanix_backend.errors import ParameterError, SelectionError
from nutanix_backend.names import DRILL, FIRMWARE
from nutanix_backend.references.roster import Roster, RosterFile, listed
from nutanix_backend.settings.parameters import parse
from prism_lab import Lab
from prism_lab._model import Named
from ptcomm import Level, Phase, Severity
from ptcomm_runner import jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nutanix_backend.cluster.selection import SelectedVms

    from apps.nutanix_backend.tests.conftest import Product


MIB = 1 << 20


@attrs.frozen
class Thing:
    """An entity with a name."""

    name: str
    ext_id: str = ""


@pytest.mark.parametrize(
    ("value", "names", "found"),
    [
        ("web1", ["web1", "web2"], ["web1"]),
        ("web*", ["web1", "db", "web"], ["web1", "web"]),
        ("web?", ["web1", "web12"], ["web1"]),
        ("web[1]", ["web1", "web[1]"], ["web[1]"]),
        ("web[1]*", ["web1x", "web[1]x"], ["web[1]x"]),
        ("a*", ["a*", "ab"], ["a*"]),
        ("Web*", ["web1"], []),
        ("a.b", ["a.b", "axb"], ["a.b"]),
        ("two*", ["two\nlines"], ["two\nlines"]),
    ],
)
def test_only_star_and_question_mark_are_special(
    value: str, names: list[str], found: list[str]
) -> None:
    assert [thing.name for thing in matching(value, [Thing(name) for name in names])] == found


def test_an_id_is_a_name_too() -> None:
    assert matching("0a-1", [Thing("web", "0a-1"), Thing("db", "0a-2")])[0].name == "web"
    assert not is_pattern("web[1]")
    assert is_pattern("web?")


def test_what_selects_nothing_costs_the_others_nothing(product: Product) -> None:
    guest = product.guest(1 << 20)
    result = product.backup(Level.FULL, guest, vm=[guest.name, "no-such-vm", "nothing-*"])
    assert result.status.good
    said = [m.text for m in result.log if m.severity is Severity.NONFATAL]
    assert len(said) == 2
    assert "no VM is called no-such-vm" in said[0]
    assert "no VM is called nothing-*" in said[1]


@pytest.mark.parametrize("ours", [DRILL, FIRMWARE], ids=["drill", "firmware"])
def test_a_vm_that_a_job_makes_for_itself_is_not_saved(product: Product, ours: str) -> None:
    """It is gone, or another one, before the job could end."""
    guest = product.guest(1 << 20)
    left = product.guest(1 << 20, name=f"{ours}12345678 {guest.name}")
    result = jobs.listing("job", product.settings(vm=f"*{guest.name}"), Phase.ESTIMATE)
    assert {file.name.split("/")[2] for file in result.files} == {guest.ext_id}
    del product.lab._world.vms[left.ext_id]


def test_with_abort_on_error_one_value_ends_the_job(product: Product) -> None:
    guest = product.guest(1 << 20)
    result = product.backup(Level.FULL, vm=[guest.name, "no-such-vm"], abort_on_error="yes")
    assert not result.status.good


def test_a_job_of_which_nothing_is_left_fails(product: Product) -> None:
    product.guest(1 << 20)
    result = product.backup(Level.FULL, vm="no-such-vm")
    assert not result.status.good
    assert "no VM is called no-such-vm" in result.log[-1].text


# --- by category and project, on both generations ------------------------------------------------

PROJECT = "5b0f4d0e-7d8f-4c0b-9a55-0d7c5e1f2a3b"


@pytest.fixture(scope="module", params=["7.6", "2023.4"], ids=["v4", "v3"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four VMs: two in production, one of them in a project; one of the lab; one of nothing."""
    root = tmp_path_factory.mktemp("lab")
    with Lab.start(root, personality=request.param, task_seconds=0) as lab:
        for value in ("Production", "Test"):
            named = Named("Environment", value=value)
            lab._world.categories[named.ext_id] = named
        ids = {c.value: c.ext_id for c in lab._world.categories.values()}
        for name, category in (("shop", "Production"), ("web", "Production"), ("lab", "Lab")):
            lab._vm(lab.create_vm(name, [MIB])).categories = [ids[category]]
        lab._vm("web").hardware["project"] = {"extId": PROJECT}
        lab.create_vm("bare", [MIB])
        yield lab


@pytest.fixture
def chooser(
    site: Lab, tmp_path: Path, make_product: Callable[[Lab, Path], Product]
) -> Callable[..., SelectedVms]:
    """Select with these parameters."""
    host = make_product(site, tmp_path / "host")

    def choose(**parameters: object) -> SelectedVms:
        settings = parse(host.parameters(**parameters))
        with inventory.connect(settings) as client:
            return selection.select(client, settings)

    return choose


def names(selected: SelectedVms) -> list[str]:
    """The names of the VMs selected."""
    return [source.vm.name for source in selected.sources]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"category": "Environment:Production"}, ["shop", "web"]),
        ({"category": " Environment : Lab "}, ["lab"]),
        ({"category": ["Environment:Production", "Environment:Lab"]}, ["lab", "shop", "web"]),
        ({"category": "Environment:Production", "vm": ["web", "bare"]}, ["bare", "shop", "web"]),
        ({"category": "Environment:Production", "exclude_vm": "w*"}, ["shop"]),
        ({"vm": "*", "exclude_category": "Environment:Production"}, ["bare", "lab"]),
        ({"vm": "*", "exclude_category": "Environment:Test"}, ["bare", "lab", "shop", "web"]),
        ({"project": PROJECT}, ["web"]),
        ({"project": PROJECT, "category": "Environment:Lab"}, ["lab", "web"]),
    ],
)
def test_vms_are_chosen_by_category_and_project(
    chooser: Callable[..., SelectedVms], parameters: dict[str, object], expected: list[str]
) -> None:
    assert names(chooser(**parameters)) == expected


def test_a_project_is_found_by_its_name(chooser: Callable[..., SelectedVms], site: Lab) -> None:
    with inventory.connect(parse(lab_parameters(site))) as client:
        (project,) = client.projects.list()
    site._vm("bare").hardware["project"] = {"extId": project.ext_id}
    assert names(chooser(project=project.name)) == ["bare"]


def lab_parameters(site: Lab) -> list[tuple[str, str]]:
    """How a lab is reached."""
    given = {"prism": site.pc_host, "user": site.user, "password": site.password}
    return [*given.items(), ("ca", str(site.ca_file))]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"category": "Environment:Test"}, "no VM has the category Environment:Test: check "),
        ({"category": "Environment:prod"}, "no VM has the category Environment:prod: check "),
        ({"project": "nobody's"}, "no VM belongs to project nobody's: check project="),
    ],
)
def test_a_value_that_selects_nothing_is_an_error_for_that_value(
    chooser: Callable[..., SelectedVms], parameters: dict[str, object], reason: str
) -> None:
    (missing,) = chooser(vm="web", **parameters).missing
    assert missing.reason.startswith(reason)
    with pytest.raises(SelectionError, match=reason):
        chooser(**parameters)


def test_projects_that_cannot_be_listed_are_known_by_their_uuid(
    chooser: Callable[..., SelectedVms], site: Lab
) -> None:
    site.faults.status("POST */projects/list", 403)
    assert names(chooser(project=PROJECT)) == ["web"]
    site.faults.status("POST */projects/list", 403)
    (missing,) = chooser(vm="web", project="default").missing
    assert "cannot be listed by name" in missing.reason
    assert "use the UUID" in missing.reason


@pytest.mark.parametrize("parameter", ["category", "exclude_category"])
@pytest.mark.parametrize("text", ["Environment", "Environment:", ":Lab", ""])
def test_what_is_no_category_is_refused(
    chooser: Callable[..., SelectedVms], parameter: str, text: str
) -> None:
    with pytest.raises(ParameterError, match="is no category: write Key:Value"):
        chooser(**{"vm": "*", parameter: text})


def test_vms_that_are_all_left_out_are_no_job(chooser: Callable[..., SelectedVms]) -> None:
    with pytest.raises(SelectionError, match="no VM is left to back up"):
        chooser(category="Environment:Lab", exclude_category="Environment:Lab")
    with pytest.raises(ParameterError, match="name a VM, a category or a project"):
        chooser()


# --- what is new, and what is gone ---------------------------------------------------------------


def test_the_job_log_names_vms_that_are_new_or_gone(product: Product) -> None:
    first, gone, new = (product.guest(MIB, name=f"roster-{n}") for n in (1, 2, 3))
    lab = product.lab
    kept = lab._world.vms.pop(new.ext_id)
    product.good_backup(Level.FULL, first, gone, vm="roster-*")
    lab._world.vms[kept.ext_id] = kept
    del lab._world.vms[gone.ext_id]
    result = product.backup(Level.FULL, first, new, vm="roster-*")
    (said,) = (m.text for m in result.log if "did not have" in m.text)
    assert said.endswith(" did not have: roster-3")
    (warned,) = (m.text for m in result.log if m.severity is Severity.WARNING)
    assert "are not selected any more: roster-2: were they deleted" in warned
    other = product.backup(Level.FULL, first, vm=first.name)
    assert not [m for m in other.log if "did not have" in m.text], "another selection"
    product.good_backup(Level.FULL, first, new, vm="roster-*")


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"vm{n}" for n in range(25)]
    assert listed(names).endswith("vm18, vm19 and 5 more")
    assert listed(names[:20]).endswith("vm18, vm19")


def test_a_roster_that_cannot_be_kept_costs_nothing(
    product: Product, caplog: pytest.LogCaptureFixture
) -> None:
    settings = parse(product.parameters(vm="web"))
    file = RosterFile.of(product.root, "job.1", settings)
    file.save(Roster(1, "job.1", ()))
    assert file.load() == Roster(1, "job.1", ())
    (path,) = product.root.rglob("job.1-*.json")
    path.write_text("{")
    assert file.load() is None
    path.unlink()
    path.with_suffix(".new").mkdir()
    file.save(Roster(1, "job.1", ()))
    assert file.load() is None
    assert "cannot be used" in caplog.text
    assert "cannot be written" in caplog.text


# --- many VMs ------------------------------------------------------------------------------------


def test_a_long_listing_says_how_far_it_is(site: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    said: list[str] = []
    with inventory.connect(parse(lab_parameters(site))) as client:
        sources = inventory.every_vm(client, say=said.append)
        (whole, *_) = inventory.every_vm(client, whole=True)
    assert said == [f"{number} VMs are listed so far" for number in range(1, 5)]
    assert not any(source.vm.raw for source in sources)
    assert whole.vm.raw


def test_an_estimate_says_what_selects_nothing(product: Product) -> None:
    guest = product.guest(MIB)
    settings = product.settings(vm=[guest.name, "nobody"])
    result = jobs.listing("job", settings, Phase.ESTIMATE)
    (line,) = (m.text for m in result.log if m.severity is Severity.NONFATAL)
    assert line.startswith("vm=nobody is not counted: no VM is called nobody")
    assert len(result.files) == 2
