"""The table of parameters: what is accepted, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from nutanix_backend.errors import ParameterError
from nutanix_backend.settings.parameters import (
    Settings,
    parse,
    prism_address,
    require_connection,
    with_target,
)
from nutanix_backend.settings.table import TABLE


def test_the_table_and_the_settings_name_the_same_parameters() -> None:
    fields = {field.name for field in attrs.fields(Settings)}
    assert {row.name for row in TABLE} | {"given", "ca_pem", "target"} == fields


def test_defaults_are_the_safe_choices() -> None:
    settings = parse([])
    assert not settings.prism_insecure
    assert not settings.overwrite
    assert settings.fallback_to_full
    assert settings.chap
    assert settings.restore_powerstate == "off"


def test_lists_collect_and_of_others_the_last_counts() -> None:
    settings = parse([("vm", "a"), ("vm", "b*"), ("dsip", "10.0.0.1"), ("dsip", "10.0.0.2")])
    assert settings.vm == ("a", "b*")
    assert settings.dsip == "10.0.0.2"


def test_what_the_daemon_adds_by_itself_is_no_unknown_parameter() -> None:
    assert parse([("Accurate", "1")]) == parse([])


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([("vmm", "x")], "unknown parameter vmm"),
        ([("config_file", "/a\0b")], "parameter config_file holds a NUL byte"),
        ([("consistency", "good")], "consistency=good is not one of crash, app, app_or_crash"),
        ([("overwrite", "maybe")], "overwrite=maybe is neither yes nor no"),
        ([("timeout", "0")], "timeout=0 is not a positive number of seconds"),
        ([("timeout", "nan")], "timeout=nan is not a positive number of seconds"),
        ([("timeout", "soon")], "timeout=soon is not a positive number of seconds"),
        ([("layout", "big")], "layout: 'big' is not a layout: give a line that"),
        ([("ca", "ca.pem")], "ca=ca.pem is not an absolute path"),
        ([("disk_path", "disk.img")], "disk_path=disk.img is neither a path nor number:path"),
        ([("disk_path", "0:disk.img")], "disk_path=disk.img is not an absolute path"),
        ([("disk_path", "0:/a,0:/b")], "disk_path=0:/a,0:/b is neither a path nor number:path"),
        ([("disk_path", "/a,1:/b")], "disk_path=/a,1:/b is neither a path nor number:path"),
        ([("password_file", "/nowhere/at/all")], "password_file /nowhere/at/all cannot be read"),
    ],
)
def test_a_bad_parameter_is_one_line_that_names_it(
    items: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(ParameterError, match="^" + words) as caught:
        parse(items)
    assert "\n" not in str(caught.value)


def test_config_file_gives_what_the_plugin_line_does_not(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("# Prism\nprism = pc.example\n\nuser=backup\npassword = s3cret\n")
    config.chmod(0o600)
    settings = parse([("config_file", str(config)), ("user", "other")])
    assert (settings.prism, settings.user, settings.password) == ("pc.example", "other", "s3cret")


def test_config_file_with_a_broken_line_names_it(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("prism=x\nnonsense\n")
    with pytest.raises(ParameterError, match=r"line 2: expected name=value"):
        parse([("config_file", str(config))])


def test_password_file_is_its_first_line(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"pass word\r\nnot this\n")
    file.chmod(0o600)
    assert parse([("password_file", str(file))]).password == "pass word"


def test_paths_of_several_disks() -> None:
    assert parse([("disk_path", "/dev/sdx")]).disk_path == {"": Path("/dev/sdx")}
    several = parse([("disk_path", "0:/dev/sdx,12:/srv/a,b.img")]).disk_path
    assert several == {"0": Path("/dev/sdx"), "12": Path("/srv/a,b.img")}
    assert parse([]).disk_path == {}


def test_the_target_has_a_connection_of_its_own(tmp_path: Path) -> None:
    secret, config, ca = (tmp_path / name for name in ("password", "other", "ca.pem"))
    ca.write_text("a certificate")
    secret.write_text("hush\n")
    secret.chmod(0o600)
    config.write_text(f"prism=other.example\nuser=dr\npassword_file={secret}\ndsip=10.0.0.9\n")
    here = [("prism", "pc"), ("user", "u"), ("password", "p"), ("ca", str(ca)), ("vm", "web")]
    settings = parse([*here, ("target_config_file", str(config))])
    target = with_target(settings).target
    assert target is not None
    assert (target.prism, target.user, target.password) == ("other.example", "dr", "hush")
    assert (target.dsip, target.ca, target.vm) == ("10.0.0.9", None, ("web",))
    assert with_target(parse(here)) == parse(here)
    config.write_text("prism=other\noverwrite=yes\n")
    with pytest.raises(ParameterError, match="overwrite does not belong there"):
        with_target(settings)


def test_secrets_are_not_shown() -> None:
    shown = repr(parse([("password", "hush-hush"), ("api_key", "key-key")]))
    assert "hush-hush" not in shown
    assert "key-key" not in shown


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "prism is missing"),
        ([("prism", "pc")], "no credentials"),
        ([("prism", "pc"), ("user", "u")], "no credentials"),
    ],
)
def test_a_connection_needs_an_address_and_credentials(
    items: list[tuple[str, str]], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        require_connection(parse(items))


def test_an_api_key_is_enough() -> None:
    require_connection(parse([("prism", "pc"), ("api_key", "k")]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("paswort", "unknown parameter paswort: did you mean password? parameters.md lists all"),
        ("Prism", "unknown parameter Prism: did you mean prism?"),
        ("qqqqq", "unknown parameter qqqqq: parameters.md lists all"),
    ],
)
def test_an_unknown_parameter_names_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse([(name, "x")])
    assert str(caught.value).startswith(words)


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    password, config = tmp_path / "password", tmp_path / "config"
    for file in (password, config):
        file.touch(mode=0o600)
    password.write_bytes(b"\xef\xbb\xbfs\xe2\x80\xa8x\r\n")
    config.write_bytes(f"\ufeffprism = pc\r\nuser = u\r\npassword_file = {password}\r\n".encode())
    settings = parse([("config_file", str(config))])
    assert (settings.prism, settings.user, settings.password) == ("pc", "u", "s\u2028x")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("PC.Example.COM", "pc.example.com:9440"),
        ("pc:443", "pc:443"),
        ("::1", "[::1]:9440"),
        ("[::1]:443", "[::1]:443"),
        ("FD00:0::10", "[fd00::10]:9440"),
        ("", ""),
    ],
)
def test_the_address_of_prism_has_one_spelling(text: str, address: str) -> None:
    assert prism_address(parse([("prism", text)])) == address
